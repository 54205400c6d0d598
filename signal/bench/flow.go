package bench

import (
	"fmt"
	"time"
)

// flow is what one client sends to another. The loop's goroutine owns it.
type flow struct {
	loop   *loop
	number uint32
	from   *socket
	to     *socket
	sizes  [kinds]int // sizes are those of the data.
	text   []byte     // text is what is sent next.

	sent uint64
	tally
	verdict *verdict
	arrived func(k kind, sent, now time.Time) error // arrived is called for every message that came for the first time.
}

// verdict counts what servers did wrong, but for what tallies say.
type verdict struct {
	corrupt uint64 // corrupt are messages that are not as they were sent, or came to somebody else.
	forged  uint64 // forged are messages that name another sender.
}

// candidateSize is the size of a message with a candidate in bytes.
const candidateSize = 256

// newFlow returns what from sends to the client that it has as its peer. Offers and answers are
// messages of size bytes where they have no id.
func newFlow(l *loop, number int, from, to *socket, size int, v *verdict) (*flow, error) {
	f := &flow{loop: l, number: uint32(number), from: from, to: to, verdict: v}
	for k := range kinds {
		head := len(from.dialect.appendHead(nil, kind(k), from.peer, ""))
		bytes := size
		if kind(k) == candidate {
			bytes = max(candidateSize, head+dataLen(candidate)+1)
		}
		f.sizes[k] = bytes - head - len("}")
		if f.sizes[k] < dataLen(kind(k)) || bytes > maxSize {
			return nil, fmt.Errorf("--size: a message of %d bytes is too small or too large", bytes)
		}
	}
	to.handle = f.receive
	return f, nil
}

// send sends the next message, which was to be sent at a moment. An id asks for an ack.
func (f *flow) send(k kind, id string, at time.Time) error {
	f.text = f.from.dialect.appendHead(f.text[:0], k, f.from.peer, id)
	f.text = appendData(f.text, k, stamp{f.number, f.sent, at.UnixNano()}, f.sizes[k])
	f.text = append(f.text, '}')
	f.sent++
	return f.loop.send(f.from, f.text)
}

// receive takes what came to the far end. What is no message of a peer is not looked at.
func (f *flow) receive(m *message, now time.Time) error {
	k, relayed := f.to.dialect.kindOf(m.kind)
	if !relayed {
		return nil
	}
	s, ok := readData(m.data, k, f.sizes[k])
	if !ok || s.flow != f.number || s.seq >= f.sent {
		f.verdict.corrupt++
		return nil
	}
	if f.to.dialect.sender != "" && string(m.sender) != f.from.user {
		f.verdict.forged++
	}
	if !f.take(s.seq) || f.arrived == nil {
		return nil
	}
	return f.arrived(k, time.Unix(0, s.at), now)
}

// lost is how many messages have not arrived.
func (f *flow) lost() uint64 { return f.sent - f.received }
