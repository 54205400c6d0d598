// Package wiretest makes frames for the tests of what reads and writes them. It
// does so by itself, lest a mistake of package wire is tested with its own result.
package wiretest

import (
	"bytes"
	"encoding/binary"
)

// STUN is a Binding request with an attribute area of so many zeros, which must be
// a multiple of four for a right one.
func STUN(length int) []byte {
	frame := make([]byte, 20+length)
	frame[1] = 1
	binary.BigEndian.PutUint16(frame[2:], uint16(length))
	binary.BigEndian.PutUint32(frame[4:], 0x2112A442)
	return frame
}

// ChannelData is ChannelData of so many bytes without padding.
func ChannelData(length int) []byte {
	frame := bytes.Repeat([]byte{0xaa}, 4+length)
	frame[0], frame[1] = 0x40, 1
	binary.BigEndian.PutUint16(frame[2:], uint16(length))
	return frame
}

// Padded is a frame as it stands in a stream.
func Padded(frame []byte) []byte {
	return append(bytes.Clone(frame), make([]byte, -len(frame)&3)...)
}
