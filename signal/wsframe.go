package signal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// opcode is the kind of a WebSocket frame, RFC 6455 section 5.2.
type opcode byte

const (
	opContinuation opcode = 0
	opText         opcode = 1
	opBinary       opcode = 2
	opClose        opcode = 8
	opPing         opcode = 9
	opPong         opcode = 10
)

func (o opcode) isControl() bool { return o&8 != 0 }

func (o opcode) isKnown() bool {
	return o <= opBinary || o >= opClose && o <= opPong
}

const (
	finBit  = 0x80
	rsvBits = 0x70
	maskBit = 0x80
	// maxControl is the payload of the longest control frame, and of what has its length in the first
	// two bytes.
	maxControl = 125
	// maxHeader is the size of the longest header of the server's frames.
	maxHeader = 10
)

var (
	// errProtocol says that the client breaks RFC 6455.
	errProtocol = errors.New("WebSocket protocol")
	// errHalfCode is a close frame with one byte, of which RFC 6455, section 5.5.1, wants none or two.
	errHalfCode = fmt.Errorf("%w: half a close code", errProtocol)
	// errNotUTF8 says that the client sent a text that is none: RFC 6455, section 8.1.
	errNotUTF8 = errors.New("text that is not UTF-8")
)

// frameHeader is the header of a client's frame.
type frameHeader struct {
	op     opcode
	fin    bool
	length uint64
	key    [4]byte
}

// parseHeader reads the header of a client's frame. Size is 0 when more bytes are needed.
func parseHeader(b []byte) (h frameHeader, size int, err error) {
	if len(b) < 2 {
		return h, 0, nil
	}
	h.op, h.fin = opcode(b[0]&15), b[0]&finBit != 0
	switch {
	case b[0]&rsvBits != 0:
		return h, 0, fmt.Errorf("%w: reserved bits are set", errProtocol)
	case !h.op.isKnown():
		return h, 0, fmt.Errorf("%w: opcode %d", errProtocol, h.op)
	case b[1]&maskBit == 0:
		return h, 0, fmt.Errorf("%w: a client's frame is not masked", errProtocol)
	}
	short := b[1] &^ maskBit
	if h.op.isControl() && (short > maxControl || !h.fin) {
		return h, 0, fmt.Errorf("%w: a control frame is long or fragmented", errProtocol)
	}
	size = 2 + extraLength(short) + len(h.key)
	if len(b) < size {
		return h, 0, nil
	}
	switch h.length = uint64(short); short {
	case 126:
		h.length = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		h.length = binary.BigEndian.Uint64(b[2:])
	}
	if h.length > 1<<63-1 {
		return h, 0, fmt.Errorf("%w: frame length", errProtocol)
	}
	copy(h.key[:], b[size-len(h.key):])
	return h, size, nil
}

// extraLength returns how many bytes of the length follow the first two of a header.
func extraLength(short byte) int {
	switch short {
	case 126:
		return 2
	case 127:
		return 8
	}
	return 0
}

// unmask takes the mask off a whole payload, RFC 6455 section 5.3.
func unmask(payload []byte, key [4]byte) {
	word := uint64(binary.LittleEndian.Uint32(key[:]))
	word |= word << 32
	for len(payload) >= 8 {
		binary.LittleEndian.PutUint64(payload, binary.LittleEndian.Uint64(payload)^word)
		payload = payload[8:]
	}
	for i := range payload {
		payload[i] ^= key[i%4]
	}
}

// appendFrame appends a frame of the server, whole and not masked.
func appendFrame(dst []byte, op opcode, payload []byte) []byte {
	return append(appendHeader(dst, op, len(payload)), payload...)
}

func appendHeader(dst []byte, op opcode, length int) []byte {
	dst = append(dst, finBit|byte(op))
	switch {
	case length <= maxControl:
		return append(dst, byte(length))
	case length < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(length))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(length))
}

// parseClose reads the code of a close frame's payload; CloseNoStatusReceived stands for none.
func parseClose(payload []byte) (code int, err error) {
	switch len(payload) {
	case 0:
		return websocket.CloseNoStatusReceived, nil
	case 1:
		return 0, errHalfCode
	}
	if !utf8.Valid(payload[2:]) {
		return 0, errNotUTF8
	}
	code = int(binary.BigEndian.Uint16(payload))
	if !validClose(code) {
		return 0, fmt.Errorf("%w: close code %d", errProtocol, code)
	}
	return code, nil
}

// validClose reports whether a close frame may carry a code, RFC 6455 section 7.4 and the registry
// that it founds.
func validClose(code int) bool {
	return code >= 1000 && code <= 1003 || code >= 1007 && code <= 1013 || code >= 3000 && code <= 4999
}
