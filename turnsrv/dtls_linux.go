package turnsrv

import (
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/transport"
)

// A loop treats a client of DTLS as one of UDP: what comes is opened where it was read,
// and what goes to the client is sealed into records, which leave in trains as
// packets do. A session is the transport's all the while, which makes the
// handshake, tells when it is over, and never hands on anything after that.

// recordSpace is room for the records of a turn. When it is full, what waits leaves.
const recordSpace = 1 << 20

// records are those that wait in the outbox. They are nil until the first one.
type records []byte

// room returns where a record may be appended that needs so many bytes, nil when it is full.
func (r *records) room(size int) []byte {
	if *r == nil {
		*r = make([]byte, 0, recordSpace)
	}
	if size > cap(*r)-len(*r) {
		return nil
	}
	return (*r)[len(*r):]
}

// reset is for when the outbox is empty.
func (r *records) reset() { *r = (*r)[:0] }

// fromSession handles a message of a client of DTLS.
func (l *dataLoop) fromSession(from *transport.DTLSConn, message []byte, _ batch.Mark) {
	l.lookAt(from.From(), from)
	l.packet(message)
}

// seal sends a message to a client in a record, with so many bytes of payload.
func (l *dataLoop) seal(client *transport.DTLSConn, to *batch.Slot, header, body []byte, padding, payload int) {
	size := len(header) + len(body) + padding + transport.SealOverhead
	space := l.records.room(size)
	if space == nil {
		l.out.Flush()
		l.records.reset()
		space = l.records.room(size)
	}
	record, err := client.Seal(space, header, body, padding)
	if err != nil {
		l.front.metrics.dropped(dropSendError)
		return
	}
	l.records = l.records[:len(l.records)+len(record)]
	l.out.AddFrame(to, record, payload)
}

// inPlace says whether a frame for the recent peer's client may leave from where it was read.
func (p *wayBack) inPlace() bool { return p.slot.Socket != nil && p.secure == nil }
