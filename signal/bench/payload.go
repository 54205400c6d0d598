package bench

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
)

// kind is what a message is in a call.
type kind int

const (
	offer kind = iota
	answer
	candidate
	kinds = 3
)

// documents are what the data of each kind look like: a JSON document in a string, with a body
// between head and tail.
var documents = [kinds]struct{ head, tail string }{
	{`"{\"type\":\"offer\",\"sdp\":\"`, `\"}"`},
	{`"{\"type\":\"answer\",\"sdp\":\"`, `\"}"`},
	{`"{\"sdpMid\":\"0\",\"sdpMLineIndex\":0,\"candidate\":\"`, `\"}"`},
}

// A body begins with the number of its flow, its place in the flow and the time at which it was to be
// sent, in nanoseconds, all in hexadecimal digits.
const stampLen = 2 * (4 + 8 + 8)

// noise is what the rest of bodies is cut from; JSON leaves its characters as they are.
var noise = func() []byte {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	source := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 2*maxSize)
	for i := range b {
		b[i] = letters[source.IntN(len(letters))]
	}
	return b
}()

// noiseOf returns the n characters that belong to one message.
func noiseOf(flow uint32, seq uint64, n int) []byte {
	start := (uint64(flow)*131 + seq*7) % uint64(len(noise)-n+1)
	return noise[start:][:n]
}

// stamp is what a body begins with.
type stamp struct {
	flow uint32
	seq  uint64
	at   int64
}

// appendData appends the data of a message, all of size bytes.
func appendData(to []byte, k kind, s stamp, size int) []byte {
	d := documents[k]
	to = append(to, d.head...)
	to = appendHex(to, uint64(s.flow), 8)
	to = appendHex(to, s.seq, 16)
	to = appendHex(to, uint64(s.at), 16)
	to = append(to, noiseOf(s.flow, s.seq, size-dataLen(k))...)
	return append(to, d.tail...)
}

// dataLen is the length of data without any noise.
func dataLen(k kind) int { return len(documents[k].head) + stampLen + len(documents[k].tail) }

// readData returns the stamp of data that must be as appendData has made them.
func readData(data []byte, k kind, size int) (s stamp, ok bool) {
	d := documents[k]
	if len(data) != size || !bytes.HasPrefix(data, []byte(d.head)) || !bytes.HasSuffix(data, []byte(d.tail)) {
		return s, false
	}
	body := data[len(d.head) : len(data)-len(d.tail)]
	var raw [stampLen / 2]byte
	if _, err := hex.Decode(raw[:], body[:stampLen]); err != nil {
		return s, false
	}
	number := func(b []byte) (n uint64) {
		for _, c := range b {
			n = n<<8 | uint64(c)
		}
		return n
	}
	s = stamp{uint32(number(raw[:4])), number(raw[4:12]), int64(number(raw[12:]))}
	return s, bytes.Equal(body[stampLen:], noiseOf(s.flow, s.seq, len(body)-stampLen))
}

func appendHex(to []byte, n uint64, digits int) []byte {
	const hexDigits = "0123456789abcdef"
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		to = append(to, hexDigits[n>>shift&15])
	}
	return to
}

// tally is what the receiver of one flow has seen. Everything must arrive once and in order.
type tally struct {
	received  uint64
	doubled   uint64
	reordered uint64

	next    uint64              // next is the number of the message that comes next.
	missing map[uint64]struct{} // missing are those before it that have not come.
}

// take counts the message of a number and reports whether it came for the first time.
func (t *tally) take(seq uint64) bool {
	if seq < t.next {
		if _, late := t.missing[seq]; !late {
			t.doubled++
			return false
		}
		delete(t.missing, seq)
		t.reordered++
	}
	for ; t.next < seq; t.next++ {
		if t.missing == nil {
			t.missing = map[uint64]struct{}{}
		}
		t.missing[t.next] = struct{}{}
	}
	t.next = max(t.next, seq+1)
	t.received++
	return true
}
