package turnsrv

import "cline-meet/signal/turnsrv/internal/wire"

// crossed is a number of packets and of the bytes in them.
type crossed struct{ packets, bytes int }

// onChannel sends on what came on the recent channel.
func (l *dataLoop) onChannel(packet, payload []byte) {
	w := l.way
	if w.out.across == nil {
		w.slot.Mark = l.mark
		l.out.Add(&w.slot, nil, payload, 0)
		return
	}
	l.cross(w.out.relay, w.out.across, packet[:wire.ChannelHeader+len(payload)], payload)
}

// cross hands a payload from a relay to the one that its peer is, which may be of
// another loop: what either allocation allows and counts is as if it had gone
// through the network in between. A frame is ChannelData with that payload, nil
// where it came otherwise. It becomes that of the other client's channel.
func (l *dataLoop) cross(from, to *relay, frame, payload []byte) {
	if from.closed() {
		l.front.metrics.dropped(dropSendError)
		return
	}
	l.crossed.packets++
	l.crossed.bytes += len(payload)
	p := l.lookUp(to, from.bound())
	switch {
	case to.closed(): // It was just there, so that the network would have lost it.
	case !p.admits(payload, l.now):
	case frame != nil && p.inbound.channel != 0 && p.inPlace():
		p.inbound.appendHeader(frame[:0], len(payload))
		l.out.AddFrame(&p.slot, frame, len(payload))
	default:
		l.toClient(payload)
	}
}

// countCrossed counts what was handed over as sent to peers. What came of it is
// counted as all that goes to clients.
func (l *dataLoop) countCrossed() {
	if l.crossed.packets > 0 {
		l.relayed.sentToPeer(l.crossed.packets, l.crossed.bytes)
		l.crossed = crossed{}
	}
}
