package transport

import "encoding/binary"

// What is looked at in a record (RFC 6347, sections 4.1 and 4.2.2).
const (
	recordChangeCipher = 20
	recordHandshake    = 22
	dtlsMajor          = 254
	helloClient        = 1
	helloServer        = 2

	recordVersionAt  = 1
	recordEpochAt    = 3
	recordLengthAt   = 11
	recordHeader     = 13
	handshakeTypeAt  = recordHeader
	fragmentOffsetAt = recordHeader + 6
	handshakeHeader  = 12

	helloRandomAt   = recordHeader + handshakeHeader + 2 // Behind the version.
	helloRandomSize = 32
)

// isRecord says whether a datagram at a port that serves more than DTLS is of DTLS (RFC 7983, section 7).
func isRecord(packet []byte) bool { return len(packet) > 0 && packet[0] >= 20 && packet[0] < 64 }

// helloRandom is the random of a ClientHello, which no other one has.
func helloRandom(packet []byte) (random [helloRandomSize]byte) {
	if len(packet) >= helloRandomAt {
		copy(random[:], packet[helloRandomAt:])
	}
	return random
}

// isClientHello says whether a datagram begins with the beginning of a
// ClientHello that nobody has encrypted.
func isClientHello(packet []byte) bool {
	if len(packet) < recordHeader+handshakeHeader {
		return false
	}
	length := int(binary.BigEndian.Uint16(packet[recordLengthAt:]))
	offset := packet[fragmentOffsetAt : fragmentOffsetAt+3]
	return packet[0] == recordHandshake && packet[recordVersionAt] == dtlsMajor &&
		binary.BigEndian.Uint16(packet[recordEpochAt:]) == 0 && length >= handshakeHeader && recordHeader+length <= len(packet) &&
		packet[handshakeTypeAt] == helloClient && offset[0]|offset[1]|offset[2] == 0
}

// inspect looks at the records of a datagram for an established session. It
// says whether any is of a handshake, and whether one is plaintext that no
// client sends then, which the implementation would answer with a fatal alert:
// anybody can send one in the client's name. What remains is a client that
// repeats its last flight.
func inspect(packet []byte) (handshake, stray bool) {
	for len(packet) > 0 {
		if len(packet) < recordHeader {
			return handshake, true
		}
		end := recordHeader + int(binary.BigEndian.Uint16(packet[recordLengthAt:]))
		if end > len(packet) {
			return handshake, true
		}
		body := packet[recordHeader:end]
		plain := binary.BigEndian.Uint16(packet[recordEpochAt:]) == 0
		switch packet[0] {
		case recordHandshake:
			handshake = true
		case recordChangeCipher:
			// The implementation takes one for plaintext in every epoch.
			stray = !plain || len(body) != 1 || body[0] != 1
		default:
			stray = plain
		}
		if stray {
			return handshake, true
		}
		packet = packet[end:]
	}
	return handshake, false
}
