package wire

import (
	"encoding/binary"
	"errors"
	"io"
)

const (
	// STUNHeader and ChannelHeader are the sizes of the headers of STUN messages and
	// of ChannelData, in bytes.
	STUNHeader    = 20
	ChannelHeader = 4

	stunCookie = 0x2112A442

	// MaxFrame is the largest STUN or ChannelData message of a stream, the size
	// of the largest UDP datagram: nothing larger could be relayed.
	MaxFrame = 65507

	// minFrameBuffer is what an idle stream keeps.
	minFrameBuffer = 1 << 10

	// readAhead is how far the buffer of a busy stream grows to save reads.
	readAhead = 16 << 10

	// maxEmptyReads bounds the reads in a row that bring nothing.
	maxEmptyReads = 16
)

// ErrFrame is the error of a stream that cannot be split into frames any more.
var ErrFrame = errors.New("the stream holds neither stun nor channel data")

// Framer splits a stream into STUN messages and ChannelData messages (RFC 8656,
// section 12.5). Sizes are computed in an int, where no length of 16 bits can
// overflow. It is owned by one goroutine.
type Framer struct {
	reader io.Reader

	buffer     []byte
	start, end int  // start and end bound what was read and not consumed.
	consumed   int  // consumed is the size of the frame returned last, with its padding, which may not have come yet.
	full       bool // full says that the last read could have brought more.
	opened     bool // opened says that there was a frame.
}

// NewFramer returns a framer of what comes from stream.
func NewFramer(stream io.Reader) *Framer { return &Framer{reader: stream} }

// Next returns the next frame without padding; it is valid until the next call.
// After an error, which errFrame is when there is no frame, the stream is of no
// more use.
func (f *Framer) Next() ([]byte, error) {
	if err := f.skip(); err != nil {
		return nil, err
	}
	size, err := f.size()
	if err != nil {
		return nil, err
	}
	if err := f.need(size); err != nil {
		return nil, err
	}
	f.opened = true
	f.consumed = Padded(size)
	return f.buffer[f.start : f.start+size : f.start+size], nil
}

// skip consumes the last frame. Its padding is waited for only now, so that a
// frame is never held back by it.
func (f *Framer) skip() error {
	for f.consumed > 0 {
		if f.start == f.end {
			if err := f.fill(1); err != nil {
				return err
			}
		}
		n := min(f.consumed, f.end-f.start)
		f.start += n
		f.consumed -= n
	}
	return nil
}

// size looks at the header of the next frame. A client needs an allocation
// before it can send ChannelData, so the first frame is STUN; else "GET " would
// pass for data of channel 0x4745.
func (f *Framer) size() (int, error) {
	if err := f.need(1); err != nil {
		return 0, err
	}
	switch f.buffer[f.start] >> 6 {
	case 0:
		return f.stunSize()
	case 1:
		if f.opened {
			return f.channelSize()
		}
	}
	return 0, ErrFrame
}

func (f *Framer) stunSize() (int, error) {
	if err := f.need(8); err != nil {
		return 0, err
	}
	header := f.buffer[f.start:f.end]
	length := int(binary.BigEndian.Uint16(header[2:]))
	if length%4 != 0 || binary.BigEndian.Uint32(header[4:]) != stunCookie {
		return 0, ErrFrame
	}
	return checkFrame(STUNHeader + length)
}

func (f *Framer) channelSize() (int, error) {
	if err := f.need(ChannelHeader); err != nil {
		return 0, err
	}
	return checkFrame(ChannelHeader + int(binary.BigEndian.Uint16(f.buffer[f.start+2:])))
}

func checkFrame(size int) (int, error) {
	if size > MaxFrame {
		return 0, ErrFrame
	}
	return size, nil
}

// need reads until size bytes are there.
func (f *Framer) need(size int) error {
	for f.end-f.start < size {
		if err := f.fill(size); err != nil {
			if err == io.EOF && f.end > f.start {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// fill reads once, of a frame of size bytes.
func (f *Framer) fill(size int) error {
	f.makeRoom(size)
	for range maxEmptyReads {
		n, err := f.reader.Read(f.buffer[f.end:])
		f.end += n
		f.full = f.end == len(f.buffer)
		if n > 0 {
			return nil // An error comes again.
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// makeRoom grows the buffer only when what was read has filled it, so that a
// header which promises much costs nothing.
func (f *Framer) makeRoom(size int) {
	if f.start == f.end {
		f.start, f.end = 0, 0
		f.resize()
	}
	if f.end < len(f.buffer) {
		return
	}
	if f.start == 0 {
		f.move(make([]byte, min(2*len(f.buffer), max(size, readAhead))))
		return
	}
	f.move(f.buffer)
}

func (f *Framer) move(to []byte) {
	f.end = copy(to, f.buffer[f.start:f.end])
	f.start = 0
	f.buffer = to
}

// resize fits the empty buffer to the traffic.
func (f *Framer) resize() {
	switch {
	case len(f.buffer) == 0 || len(f.buffer) > readAhead:
		f.buffer = make([]byte, minFrameBuffer)
	case f.full && len(f.buffer) < readAhead:
		f.buffer = make([]byte, 2*len(f.buffer))
	}
	f.full = false
}

// Padded returns the size of a frame with the padding that streams need.
func Padded(size int) int { return (size + 3) &^ 3 }

// FrameSize returns the size of the first of the frames that a buffer holds back
// to back, with its padding.
func FrameSize(frames []byte) int {
	header := ChannelHeader
	if !IsChannelData(frames) {
		header = STUNHeader
	}
	return Padded(header + int(binary.BigEndian.Uint16(frames[2:])))
}
