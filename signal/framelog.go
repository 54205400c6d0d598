package signal

import (
	"encoding/binary"
	"iter"
)

// frameLog is a list of frames, oldest first, in few buffers. While it is empty it holds none.
type frameLog struct {
	first, last *buffer // a list of buffers with frames, each behind its length
	begin       int     // where the oldest is in first
	count       int
	size        int // bytes of all frames
	held        int // bytes of all buffers
}

// lengthSize is the size of a frame's length in a log.
const lengthSize = 4

// maxLogBuffer bounds the size of a buffer that is for several frames.
const maxLogBuffer = 4 << 10

// add copies a frame to the end. A buffer is about as large as what is there already, so that a log of
// little holds little.
func (l *frameLog) add(frame []byte) {
	need := lengthSize + len(frame)
	if l.last == nil || cap(l.last.b)-len(l.last.b) < need {
		l.append(newBuffer(max(need, min(l.size, maxLogBuffer))))
	}
	b := l.last
	b.b = append(binary.NativeEndian.AppendUint32(b.b, uint32(len(frame))), frame...)
	l.count++
	l.size += len(frame)
}

func (l *frameLog) append(b *buffer) {
	if l.last == nil {
		l.first = b
	} else {
		l.last.next = b
	}
	l.last = b
	l.held += cap(b.b)
}

// drop forgets the oldest n frames; there are as many.
func (l *frameLog) drop(n int) {
	for range n {
		length := int(binary.NativeEndian.Uint32(l.first.b[l.begin:]))
		l.begin += lengthSize + length
		l.count--
		l.size -= length
		if l.begin == len(l.first.b) {
			l.dropBuffer()
		}
	}
}

// dropBuffer gives the oldest buffer back, whose frames are dropped.
func (l *frameLog) dropBuffer() {
	b := l.first
	if l.first, l.begin = b.next, 0; l.first == nil {
		l.last = nil
	}
	l.held -= cap(b.b)
	b.free()
}

// dropOver forgets the oldest frames until at most so many bytes are left.
func (l *frameLog) dropOver(size int) {
	for l.size > size {
		l.drop(1)
	}
}

// frames yields all frames. They are parts of the log's buffers.
func (l *frameLog) frames() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		begin := l.begin
		for b := l.first; b != nil; b, begin = b.next, 0 {
			for begin < len(b.b) {
				end := begin + lengthSize + int(binary.NativeEndian.Uint32(b.b[begin:]))
				if !yield(b.b[begin+lengthSize : end]) {
					return
				}
				begin = end
			}
		}
	}
}

// copies returns copies of all frames.
func (l *frameLog) copies() (frames [][]byte) {
	for frame := range l.frames() {
		frames = append(frames, append([]byte(nil), frame...))
	}
	return frames
}
