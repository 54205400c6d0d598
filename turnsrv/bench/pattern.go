package bench

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
)

// Every payload begins with the number of its flow, its sequence number and the
// time it was sent at, in nanoseconds.
const payloadHeader = 4 + 8 + 8

// noise is what payloads are cut from.
var noise = func() []byte {
	b := make([]byte, 8<<10)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(b) // Never fails, as its documentation says.
	return b
}()

// slice returns the n bytes of noise that belong to one packet.
func slice(flow uint32, seq uint64, n int) []byte {
	start := int((uint64(flow)*131 + seq*7) % uint64(len(noise)-n))
	return noise[start : start+n]
}

// putPayload fills a payload; with pattern all of it, else the header alone.
func putPayload(p []byte, flow uint32, seq uint64, now int64, pattern bool) {
	binary.BigEndian.PutUint32(p, flow)
	binary.BigEndian.PutUint64(p[4:], seq)
	binary.BigEndian.PutUint64(p[12:], uint64(now))
	if pattern {
		copy(p[payloadHeader:], slice(flow, seq, len(p)-payloadHeader))
	}
}

// tally is what the receiver of one flow has seen.
type tally struct {
	Received  uint64 `json:"received"`
	Corrupt   uint64 `json:"corrupt"`
	Reordered uint64 `json:"reordered"`

	next uint64
}

// take counts a payload and returns when it was sent, 0 when it is corrupt.
func (t *tally) take(p []byte, flow uint32, size int, pattern bool) int64 {
	if len(p) != size || binary.BigEndian.Uint32(p) != flow {
		t.Corrupt++
		return 0
	}
	seq := binary.BigEndian.Uint64(p[4:])
	if pattern && !bytes.Equal(p[payloadHeader:], slice(flow, seq, len(p)-payloadHeader)) {
		t.Corrupt++
		return 0
	}
	t.Received++
	if seq < t.next {
		t.Reordered++
	} else {
		t.next = seq + 1
	}
	return int64(binary.BigEndian.Uint64(p[12:]))
}
