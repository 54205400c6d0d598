package turnsrv

import (
	"encoding/binary"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cline-meet/signal/turnsrv/internal/wire"
)

// listenerNumber is the number of the listener in the poller.
const listenerNumber = 1

// dataLoop relays for the clients of one UDP listener. One goroutine reads the
// listener and the relays that were given to the loop, many packets at once,
// and sends them on the same way. Relays of stream clients may be among them.
type dataLoop struct {
	// Fixed after construction.
	front    *front
	server   *udpServer
	listener *rawSocket
	poller   *poller
	lane     *lane // lane is the loop's own way to the engine, on which it runs.

	started, ended chan struct{}
	starting       sync.Once // starting guards started.
	closing        atomic.Bool

	released releases // released are on the loop's lane.

	// Guarded by mu.
	mu     sync.Mutex
	relays map[uint32]*relay // relays are by their number in the poller.
	last   uint32

	// Owned by run.
	in      *inbox
	out     *outbox
	pace    pace
	spare   spare
	share   share     // share is that of the listener's clients.
	now     time.Time // now is the time of the turn.
	recent  recent
	peer    recentPeer
	scratch []byte // scratch is where frames to stream clients are put together.
}

// recent is what a turn found out last about a client's channel. It is for
// that turn alone, in which nothing can change but by requests.
type recent struct {
	from   fiveTuple
	alloc  *allocation
	number uint16 // number is 0 when no channel is known.
	lot    lot    // lot is where that channel leads.
}

// recentPeer is what a turn found out last about a peer.
type recentPeer struct {
	relay     *relay
	source    netip.AddrPort
	inbound   inbound
	permitted bool
	lot       lot
}

// newDataLoop takes the socket of a server that does not run yet.
func newDataLoop(f *front, s *udpServer) (*dataLoop, error) {
	conn, ok := s.socket.conn.(*net.UDPConn)
	if !ok {
		return nil, errNoDataLoop
	}
	l := &dataLoop{
		front: f, server: s, started: make(chan struct{}), ended: make(chan struct{}),
		relays: map[uint32]*relay{}, last: listenerNumber, out: newOutbox(f.metrics),
		pace: pace{maxNap: f.cfg.MaxNap}, scratch: make([]byte, wire.DataIndicationHeader+maxPeerDatagram+4),
	}
	var err error
	if l.in, err = newInbox(); err != nil {
		return nil, err
	}
	if l.poller, err = newPoller(); err != nil {
		l.in.free()
		return nil, err
	}
	if l.listener, err = adoptRaw(conn); err != nil {
		l.free()
		return nil, err
	}
	if err = l.poller.add(l.listener.fd, listenerNumber); err != nil {
		_ = l.listener.Close()
		l.free()
		return nil, err
	}
	s.socket.conn = l.listener
	return l, nil
}

func (l *dataLoop) free() {
	l.poller.close()
	l.in.free()
}

// watch makes the loop read a relay, from now until it is closed.
func (l *dataLoop) watch(r *relay) error {
	socket := r.conn.(*rawSocket)
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		l.last++
		if _, taken := l.relays[l.last]; !taken && l.last > listenerNumber {
			break
		}
	}
	fd, ok := socket.take()
	if !ok {
		return net.ErrClosed
	}
	defer socket.give()
	if err := l.poller.add(fd, l.last); err != nil {
		return err
	}
	r.number = l.last
	l.relays[r.number] = r
	return nil
}

// forget is called by a relay that was closed, watched or not.
func (l *dataLoop) forget(r *relay) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.relays[r.number] == r {
		delete(l.relays, r.number)
	}
}

func (l *dataLoop) relay(number uint32) *relay {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.relays[number]
}

// release makes the engine forget a relay that is closed, when the loop has time.
// It reports false when the loop is over, and the engine has given it up.
func (l *dataLoop) release(r *relay) bool {
	wake, kept := l.released.add(r)
	if wake {
		l.poller.interrupt()
	}
	return kept
}

// start lets the engine run the loop.
func (l *dataLoop) start() { l.starting.Do(func() { close(l.started) }) }

// close ends the loop and all allocations on its lane.
func (l *dataLoop) close() {
	l.closing.Store(true)
	l.poller.interrupt()
	l.start()
}

// wait returns when the loop has ended. It must have been closed.
func (l *dataLoop) wait() {
	if l.lane != nil {
		<-l.ended
	}
}

// run relays until close. The engine calls it, from the loop's lane.
func (l *dataLoop) run() {
	defer close(l.ended)
	<-l.started
	for !l.closing.Load() && l.await() {
		l.released.rouse()
		l.turn()
		l.tellEngine(false)
	}
	l.finish()
	l.spare.close()
}

// tellEngine releases what was closed, with last for the last time.
func (l *dataLoop) tellEngine(last bool) {
	for {
		closed := l.released.take(last)
		if len(closed) == 0 {
			return
		}
		for _, r := range closed {
			_ = l.front.engine.refresh(l, r, 0) // It fails when the lifetime was over.
		}
	}
}

// finish ends what is on the loop's lane, which nobody can use any more.
func (l *dataLoop) finish() {
	l.mu.Lock()
	relays := slices.Collect(maps.Values(l.relays))
	l.mu.Unlock()
	for _, r := range relays {
		if r.lane == l.lane {
			r.alloc.end(endClosed)
		}
	}
	l.tellEngine(true)
}

// await returns when there is something to read, or false when there never will.
func (l *dataLoop) await() bool {
	if d := l.pace.nap(); d > 0 {
		nap(d)
	}
	busy := l.pace.busy()
	l.spare.note(busy, l.pace.latest)
	if busy && l.spare.there.Load() && l.poller.poll(busyWait) {
		return true
	}
	return l.poller.wait() == nil
}

// turn takes from every socket at which something waits, a share from each, and
// sends it on.
func (l *dataLoop) turn() {
	began, packets, backlog := time.Now(), l.out.total, false
	l.begin()
	for i := range l.poller.found {
		if l.in.full() {
			l.sendOn()
			l.begin()
		}
		backlog = l.read(l.poller.ready(i)) || backlog
	}
	l.sendOn()
	l.pace.turned(int(l.out.total-packets), backlog, began)
}

// begin forgets what may not be so any more.
func (l *dataLoop) begin() {
	l.now = l.front.now()
	l.recent, l.peer = recent{}, recentPeer{}
}

func (l *dataLoop) sendOn() {
	l.out.flush()
	l.in.reset()
}

// read takes datagrams from one socket, and says whether there may be more.
func (l *dataLoop) read(number uint32) (more bool) {
	if number == wakeNumber {
		l.poller.heed()
		return false
	}
	socket, r := l.listener, (*relay)(nil)
	if number != listenerNumber {
		if r = l.relay(number); r == nil {
			return false
		}
		socket = r.conn.(*rawSocket)
	}
	most := takeBatch
	if socket.merging.on {
		most = takeTrains
	}
	first, end, err := l.in.take(socket, most)
	if err != nil {
		l.failed(r, err)
		return false
	}
	if r == nil {
		l.share.took(end-first == most, l.now)
	}
	merged := 0
	for i := first; i < end; i++ {
		segment := l.details(socket, i)
		if segment > 0 {
			merged++
		}
		if r == nil {
			l.fromClient(i, segment)
		} else {
			l.fromPeer(r, i, segment)
		}
	}
	if end > first && socket.merging.note(end-first, merged, l.in.run(first, end), l.now) {
		socket.merge(socket.merging.on)
	}
	return end-first == most
}

// failed notes an error of a socket, which reading it has cleared.
func (l *dataLoop) failed(r *relay, err error) {
	if r == nil {
		l.server.common.metrics.socketErrors.WithLabelValues(transportUDP.String()).Inc()
	}
	l.front.debug("turn packet not read", "transport", transportUDP.String(), "error", err)
}

// details returns the size of the packets that a datagram is merged from, 0 when
// it is one, and counts what the kernel dropped before it.
func (l *dataLoop) details(s *rawSocket, i int) (segment int) {
	control := l.in.control(i)
	if len(control) == 0 {
		return 0
	}
	segment, drops := details(control)
	if lost := drops - s.drops; lost > 0 && drops > 0 {
		s.drops = drops
		l.front.metrics.kernelDrops.Add(float64(lost))
	}
	return segment
}

// fromClient handles a datagram of a client, which may be merged from several.
func (l *dataLoop) fromClient(i, segment int) {
	client := l.in.sender(i)
	if client.Port() == 0 {
		l.server.common.metrics.drop(transportUDP, dropUnreachable, 1)
		return
	}
	from := fiveTuple{transportUDP, client, l.server.socket.asked(l.in.control(i))}
	if from != l.recent.from {
		l.recent = recent{from: from, alloc: l.front.allocation(from)}
	}
	datagram := l.in.datagram(i)
	excess := l.share.drops(from, count(datagram, segment), l.now)
	for packet := range segments(datagram, segment) {
		switch {
		case len(packet) < wire.ChannelHeader || !wire.IsDataFromClient(packet):
			l.control(from, packet)
		case excess:
			l.front.metrics.dropped(dropShare)
		default:
			l.data(packet)
		}
	}
}

// control hands over what is not data, after the data before it, whose relays it
// may close.
func (l *dataLoop) control(from fiveTuple, packet []byte) {
	if len(packet) == 0 {
		return
	}
	if l.out.toPeers {
		l.out.flush()
	}
	l.front.receiveBy(l, from, l.path(from), packet)
	l.recent = recent{from: from, alloc: l.front.allocation(from)}
}

// path returns the way back to the recent client.
func (l *dataLoop) path(from fiveTuple) path {
	if a := l.recent.alloc; a != nil {
		return a.via
	}
	return l.server.socket.pathTo(from.client, from.server)
}

// reply sends an answer to a client of the listener with the rest of the turn. The
// packet must not change any more.
func (l *dataLoop) reply(via path, packet []byte) {
	to := clientLot(via.(*udpPath))
	l.out.addControl(&to, packet)
}

// data relays data of the recent client, as front.relayToPeer does, with a memory
// of what was decided about its channel.
func (l *dataLoop) data(packet []byte) {
	c := &l.recent
	switch {
	case c.alloc == nil:
		l.front.metrics.dropped(dropNoAllocation)
	case !wire.IsChannelData(packet):
		l.indication(packet)
	case c.number == binary.BigEndian.Uint16(packet):
		_, payload, ok := wire.ParseChannelData(packet)
		if !ok {
			l.front.metrics.dropped(dropMalformed)
			return
		}
		if !c.alloc.toPeer.pass(1, len(payload), l.now) {
			l.front.metrics.dropped(dropBandwidth)
			return
		}
		l.out.add(&c.lot, nil, payload, 0)
	default:
		if p, ok := c.alloc.outboundChannelData(packet, l.now); ok {
			c.number, c.lot = binary.BigEndian.Uint16(packet), peerLot(p.relay, p.to)
			l.out.add(&c.lot, nil, p.payload, 0)
		}
	}
}

// indication relays a Send indication of the recent client.
func (l *dataLoop) indication(packet []byte) {
	p, ok := l.recent.alloc.outboundIndication(packet, l.now)
	if !ok {
		return
	}
	if p.dontFragment {
		l.out.flush() // What came before leaves before.
		l.front.send(p)
		return
	}
	to := peerLot(p.relay, p.to)
	l.out.add(&to, nil, p.payload, 0)
}

// fromPeer handles a datagram of a peer, which may be merged from several.
func (l *dataLoop) fromPeer(r *relay, i, segment int) {
	p := &l.peer
	if source := l.in.sender(i); p.relay != r || p.source != source {
		*p = recentPeer{relay: r, source: source}
		p.inbound, p.permitted = r.inbound(source, l.now)
		if client, ok := r.alloc.via.(*udpPath); ok {
			p.lot = clientLot(client)
		}
	}
	datagram := l.in.datagram(i)
	single := segment <= 0 || segment >= len(datagram)
	for payload := range segments(datagram, segment) {
		switch {
		case !p.permitted:
			l.front.metrics.dropped(dropNoPermission)
		case !p.inbound.admit(len(payload), l.now):
		case p.lot.socket == nil:
			l.toStream(r, payload)
		case single:
			var space [wire.DataIndicationHeader]byte
			header, padding := p.inbound.appendHeader(space[:0], len(payload))
			l.out.addFrame(&p.lot, l.in.frame(i, header, padding), len(payload))
		default:
			header, padding := p.inbound.appendHeader(l.out.headerSpace(), len(payload))
			l.out.add(&p.lot, header, payload, padding)
		}
	}
}

// toStream sends a payload of the recent peer to a client of a stream or of DTLS,
// whose path copies it.
func (l *dataLoop) toStream(r *relay, payload []byte) {
	frame, padding := l.peer.inbound.appendHeader(l.scratch[:0], len(payload))
	frame = append(append(frame, payload...), zeros[:padding]...)
	l.out.total++
	if err := r.alloc.via.send(frame); err != nil {
		l.front.metrics.dropped(dropSendError)
		return
	}
	l.out.relayed.receivedFromPeer(1, len(payload))
}

// count returns how many packets a datagram holds.
func count(datagram []byte, segment int) int {
	if segment <= 0 {
		return 1
	}
	return (len(datagram) + segment - 1) / segment
}

// segments yields the packets of a datagram. With segment 0 it is one.
func segments(datagram []byte, segment int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		if segment <= 0 || segment >= len(datagram) {
			yield(datagram)
			return
		}
		for len(datagram) > 0 {
			n := min(segment, len(datagram))
			if !yield(datagram[:n:n]) {
				return
			}
			datagram = datagram[n:]
		}
	}
}

// openRelay opens the socket of a relay that a data loop will read.
func openRelay(at netip.AddrPort) (udpConn, error) { return openRaw(at) }
