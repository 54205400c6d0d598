package signal

import (
	"math/bits"
	"sync"
)

// buffer is a piece of memory that is used again and again. There are buffers of several sizes, powers of
// two, so that little is held for little; what is longer than the largest is not used again.
type buffer struct {
	b    []byte
	next *buffer // of a list that the buffer is in
}

const (
	minBuffer = 1 << 8
	maxBuffer = minBuffer << (len(buffers) - 1)
)

var buffers [9]sync.Pool // by the power of two, from minBuffer on

// sizeClass returns which buffers hold so many bytes.
func sizeClass(size int) int { return bits.Len(uint(max(size, minBuffer)-1)) - bits.Len(minBuffer-1) }

// newBuffer returns an empty buffer for at least so many bytes, which free takes back.
func newBuffer(size int) *buffer {
	class := sizeClass(size)
	if class >= len(buffers) {
		return &buffer{b: make([]byte, 0, size)}
	}
	if b, ok := buffers[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, 0, minBuffer<<class)}
}

// grown returns a buffer with the same content and room for so many bytes more, nil standing for an empty
// one. It takes the one before back.
func (b *buffer) grown(room int) *buffer {
	if b == nil {
		return newBuffer(room)
	}
	if cap(b.b)-len(b.b) >= room {
		return b
	}
	larger := newBuffer(max(len(b.b)+room, 2*cap(b.b)))
	larger.b = append(larger.b, b.b...)
	b.free()
	return larger
}

// size returns how many bytes a buffer takes, nil or not.
func (b *buffer) size() int {
	if b == nil {
		return 0
	}
	return cap(b.b)
}

// free gives a buffer back, nil or not, of which nobody holds a part.
func (b *buffer) free() {
	if b == nil || cap(b.b) < minBuffer || cap(b.b) > maxBuffer {
		return
	}
	b.b, b.next = b.b[:0], nil
	buffers[bits.Len(uint(cap(b.b)))-bits.Len(minBuffer)].Put(b) // Append may have made it of any size.
}
