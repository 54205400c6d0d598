package turnsrv

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

const (
	stunHeader    = 20
	channelHeader = 4
	stunCookie    = 0x2112A442

	// frameBuffer is room for any frame the engine takes.
	frameBuffer = 2048
)

var errFrame = errors.New("the stream holds neither stun nor channel data")

// frameReader splits a stream into STUN messages and ChannelData messages
// (RFC 8656, section 12.5). It is owned by one goroutine.
type frameReader struct {
	reader  *bufio.Reader
	pending int // pending is the size of the frame that was returned last.
}

func newFrameReader(stream io.Reader) *frameReader {
	return &frameReader{reader: bufio.NewReaderSize(stream, frameBuffer)}
}

// next returns the next frame of at most limit bytes, padding included; it is
// valid until the next call. Longer ones are skipped. After an error, which
// errFrame is when there is no frame, the stream is of no more use.
func (f *frameReader) next(limit int) ([]byte, error) {
	limit = min(limit, frameBuffer)
	for {
		if _, err := f.reader.Discard(f.pending); err != nil {
			return nil, err
		}
		f.pending = 0
		size, err := f.size()
		if err != nil {
			return nil, err
		}
		f.pending = size
		if size <= limit {
			return f.reader.Peek(size)
		}
	}
}

// size looks at the header of the next frame. Its result is computed in an int,
// where no length of 16 bits can overflow.
func (f *frameReader) size() (int, error) {
	header, err := f.reader.Peek(channelHeader)
	if err != nil {
		return 0, err
	}
	length := int(binary.BigEndian.Uint16(header[2:]))
	switch header[0] >> 6 {
	case 0:
		return f.stunSize(length)
	case 1:
		return channelHeader + (length+3)&^3, nil
	}
	return 0, errFrame
}

func (f *frameReader) stunSize(length int) (int, error) {
	if length%4 != 0 {
		return 0, errFrame
	}
	header, err := f.reader.Peek(8)
	if err != nil {
		return 0, err
	}
	if binary.BigEndian.Uint32(header[4:]) != stunCookie {
		return 0, errFrame
	}
	return stunHeader + length, nil
}
