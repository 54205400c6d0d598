package transport

import "encoding/binary"

// What is looked at in a record (RFC 6347, sections 4.1 and 4.2.2).
const (
	recordChangeCipher = 20
	recordAlert        = 21
	recordHandshake    = 22
	recordData         = 23
	dtlsMajor          = 254
	dtlsMinor          = 253
	helloClient        = 1
	helloServer        = 2

	recordVersionAt  = 1
	recordEpochAt    = 3
	recordLengthAt   = 11
	recordHeader     = 13
	handshakeTypeAt  = recordHeader
	fragmentOffsetAt = recordHeader + 6
	handshakeHeader  = 12

	alertWarning  = 1
	alertFatal    = 2
	alertFarewell = 0 // close_notify

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

// nextRecord takes the first record off a datagram. It reports false where none is whole.
func nextRecord(packet []byte) (record, rest []byte, ok bool) {
	if len(packet) < recordHeader {
		return nil, nil, false
	}
	end := recordHeader + int(binary.BigEndian.Uint16(packet[recordLengthAt:]))
	if end > len(packet) {
		return nil, nil, false
	}
	return packet[:end:end], packet[end:], true
}

// isSealed says whether a datagram begins with a record of data or an alert of an established session.
func isSealed(packet []byte) bool {
	return len(packet) >= recordHeader && (packet[0] == recordData || packet[0] == recordAlert) &&
		binary.BigEndian.Uint16(packet[recordEpochAt:]) == sealedEpoch
}

// isFarewell says whether an alert ends the session.
func isFarewell(alert []byte) bool {
	return len(alert) == 2 && (alert[0] == alertFatal || alert[1] == alertFarewell)
}

// isStray says whether a record that is not sealed is one that no client sends once its
// session is established, which the implementation would answer with a fatal alert:
// anybody can send one in the client's name. What remains is a client that repeats its
// last flight.
func isStray(record []byte) bool {
	switch record[0] {
	case recordHandshake:
		return false
	case recordChangeCipher:
		// The implementation takes one for plaintext in every epoch.
		body := record[recordHeader:]
		return binary.BigEndian.Uint16(record[recordEpochAt:]) != 0 || len(body) != 1 || body[0] != 1
	}
	return true
}
