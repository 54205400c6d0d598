package turnsrv

import (
	"slices"
	"sync"

	"cline-meet/signal/turnsrv/internal/batch"
)

// maxTrain bounds the bytes of a train.
const maxTrain = 16 << 10

// train is what a client of a stream has sent to one peer since it was read: packets
// of one size, which leave with one call that the kernel or the network interface
// splits. It is empty while the client is waited for. The goroutine that reads the
// client owns it.
type train struct {
	to      outbound // to is where it goes, with no payload.
	size    int      // size is that of each packet.
	bytes   []byte   // bytes is from trainBuffers while there are packets.
	whole   bool     // whole says that the system does not split for this client.
	control [64]byte
}

// trainBuffers are those of clients who have sent nothing just now.
var trainBuffers = sync.Pool{New: func() any { return new([maxTrain]byte) }}

// train returns that of the allocation's client.
func (a *allocation) train() *train {
	if a.waiting == nil {
		a.waiting = new(train)
	}
	return a.waiting
}

// add sends a payload, which it copies, when the train leaves. Order is kept.
func (t *train) add(p outbound) {
	alone := p.across != nil || p.dontFragment || len(p.payload) == 0 || 2*len(p.payload) > maxTrain || t.whole
	if alone || !t.takes(p) {
		t.leave()
	}
	if alone {
		p.alloc.front.send(p)
		return
	}
	if t.size = len(p.payload); len(t.bytes) == 0 {
		t.bytes = trainBuffers.Get().(*[maxTrain]byte)[:0]
	}
	t.bytes = append(t.bytes, p.payload...)
	t.to, t.to.payload = p, nil
}

// takes says whether a packet belongs to what waits.
func (t *train) takes(p outbound) bool {
	return p.relay == t.to.relay && p.to == t.to.to && len(p.payload) == t.size &&
		len(t.bytes)+t.size <= maxTrain && len(t.bytes)/t.size < batch.MaxSegments
}

// leave sends what waits: as one write, or packet by packet where that is refused.
func (t *train) leave() {
	if len(t.bytes) == 0 {
		return
	}
	f, packets := t.to.alloc.front, len(t.bytes)/t.size
	if packets > 1 && t.split() {
		f.metrics.unlooped.sentToPeer(packets, len(t.bytes))
	} else {
		for payload := range slices.Chunk(t.bytes, t.size) {
			t.to.payload = payload
			f.send(t.to)
		}
	}
	trainBuffers.Put((*[maxTrain]byte)(t.bytes[:maxTrain]))
	t.bytes, t.to = nil, outbound{}
}

// split has the system send the packets.
func (t *train) split() bool {
	control := batch.AppendSegmentSize(t.control[:0], t.size)
	_, _, err := t.to.relay.conn.WriteMsgUDPAddrPort(t.bytes, control, t.to.to)
	t.whole = batch.RefusesSplit(err)
	return err == nil
}
