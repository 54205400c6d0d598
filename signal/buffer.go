package signal

import "sync"

// buffer is a piece of memory that is used again and again.
type buffer struct{ b []byte }

const (
	// bufferSize is the capacity of a new buffer.
	bufferSize = 4 << 10
	// maxPooled is the capacity of the largest buffer that is kept for use; larger ones are rare.
	maxPooled = 64 << 10
)

var buffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, bufferSize)} }}

// newBuffer returns an empty buffer, which free takes back.
func newBuffer() *buffer { return buffers.Get().(*buffer) }

// free gives a buffer back, nil or not, of which nobody holds a part.
func (b *buffer) free() {
	if b != nil && cap(b.b) <= maxPooled {
		b.b = b.b[:0]
		buffers.Put(b)
	}
}
