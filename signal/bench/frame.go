package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The operations of WebSocket frames (RFC 6455, section 5.2).
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

const (
	finalBit  = 0x80
	maskedBit = 0x80
	maxHeader = 14
)

// appendFrame appends a whole frame as clients send it, masked with key.
func appendFrame(to []byte, op byte, payload []byte, key uint32) []byte {
	to = append(to, finalBit|op)
	switch n := len(payload); {
	case n < 126:
		to = append(to, maskedBit|byte(n))
	case n < 1<<16:
		to = binary.BigEndian.AppendUint16(append(to, maskedBit|126), uint16(n))
	default:
		to = binary.BigEndian.AppendUint64(append(to, maskedBit|127), uint64(n))
	}
	to = binary.LittleEndian.AppendUint32(to, key)
	start := len(to)
	to = append(to, payload...)
	mask(to[start:], key)
	return to
}

// mask applies the masking of RFC 6455, section 5.3, whose key is in little-endian order.
func mask(b []byte, key uint32) {
	wide := uint64(key)<<32 | uint64(key)
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= byte(wide >> (8 * i))
	}
}

// parseFrame returns the first frame of what a server has sent, and its length; the length is 0 when
// the frame is not whole yet.
func parseFrame(b []byte) (op byte, payload []byte, length int, err error) {
	if len(b) < 2 {
		return 0, nil, 0, nil
	}
	if b[1]&maskedBit != 0 {
		return 0, nil, 0, errors.New("a frame of the server is masked")
	}
	if op = b[0] & 0x0F; b[0] != finalBit|op || op == 0 {
		return 0, nil, 0, fmt.Errorf("a frame begins with %#x: only whole messages without extensions are understood", b[0])
	}
	header, size := 2, uint64(b[1])
	switch {
	case size == 126 && len(b) >= 4:
		header, size = 4, uint64(binary.BigEndian.Uint16(b[2:]))
	case size == 127 && len(b) >= 10:
		header, size = 10, binary.BigEndian.Uint64(b[2:])
	case size >= 126:
		return 0, nil, 0, nil
	}
	if size > maxMessage {
		return 0, nil, 0, fmt.Errorf("a message of %d bytes", size)
	}
	if length = header + int(size); len(b) < length {
		return 0, nil, 0, nil
	}
	return op, b[header:length], length, nil
}

// closeText tells what a close frame says.
func closeText(payload []byte) string {
	if len(payload) < 2 {
		return "without a code"
	}
	return fmt.Sprintf("%d %s", binary.BigEndian.Uint16(payload), payload[2:])
}
