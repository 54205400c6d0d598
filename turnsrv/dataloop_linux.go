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

	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/engine"
	"cline-meet/signal/turnsrv/internal/transport"
	"cline-meet/signal/turnsrv/internal/wire"
)

// listenerNumber is the number of the listener in the poller.
const listenerNumber = 1

// streamsAlone is how long a loop has to have relayed to clients of streams alone.
const streamsAlone = 20 * time.Millisecond

// dataLoop relays for the clients of one listener of UDP or DTLS. One goroutine reads the
// listener and the relays that were given to the loop, many packets at once,
// and sends them on the same way. Relays of stream clients may be among them.
type dataLoop struct {
	// Fixed after construction.
	front    *front
	server   *transport.UDPServer
	listener *batch.Socket
	poller   *batch.Poller
	relayed  *relayed
	lane     *engine.Lane // lane is the loop's own way to the engine, on which it runs.

	started, ended chan struct{}
	starting       sync.Once // starting guards started.
	closing        atomic.Bool
	stale          atomic.Bool // stale says that flows of a relay that was closed may be remembered.

	// Guarded by mu.
	mu     sync.Mutex
	relays map[uint32]*relay // relays are by their number in the poller.
	last   uint32

	// Owned by run.
	in            *batch.Inbox
	out           *batch.Outbox
	mark          batch.Mark // mark is that of the datagram that is looked at.
	packets       int        // packets is how many of data the turn has passed on,
	streamed      int        // and streamed how many of them to clients of streams.
	latest, other time.Time  // latest is when the turn began, and other when one did that passed on other packets.
	crossed       crossed    // crossed is what was handed from relay to relay and is not counted yet.
	share         fairShare  // share is that of the listener's clients.
	now           time.Time  // now is the time of the turn.

	from     transport.FiveTuple // from is the client whose packet is looked at,
	secure   *transport.DTLSConn // and secure its session, nil without DTLS.
	way      *way                // way is that of its channel which was looked at last in this turn, nil before.
	peer     *wayBack            // peer is the one that was looked at last in this turn, nil before.
	ways     memory[way]
	waysBack memory[wayBack]

	scratch []byte // scratch is where frames to stream clients are put together.
	excess  bool   // excess says that data of the datagram that is looked at is dropped.
	records records
	unseal  transport.Deliver // unseal is fixed.
}

// What the packets of a loop count as.
const (
	toPeers batch.Class = iota
	toClients
	answers // Answers are responses to clients' requests.
)

// newDataLoop takes the socket of a server that does not run yet.
func newDataLoop(f *front, s *transport.UDPServer) (*dataLoop, error) {
	conn, ok := s.Conn().(*net.UDPConn)
	if !ok {
		return nil, errNoDataLoop
	}
	l := &dataLoop{
		front: f, server: s, started: make(chan struct{}), ended: make(chan struct{}),
		relays: map[uint32]*relay{}, last: listenerNumber, relayed: f.metrics.newRelayed(),
		scratch: make([]byte, wire.DataIndicationHeader+maxPeerDatagram+4),
	}
	l.lane = engine.NewOwnLane(l.run, l.wake, l.close)
	l.out = batch.NewOutbox(wire.DataIndicationHeader, l.flushed)
	l.unseal = l.fromSession
	var err error
	if l.in, err = batch.NewInbox(); err != nil {
		return nil, err
	}
	if l.poller, err = batch.NewPoller(f.cfg.MaxNap); err != nil {
		l.in.Free()
		return nil, err
	}
	if l.listener, err = batch.Adopt(conn, f.cfg.CopyDSCP); err != nil {
		l.free()
		return nil, err
	}
	if err = l.poller.Add(l.listener, listenerNumber); err != nil {
		_ = l.listener.Close()
		l.free()
		return nil, err
	}
	s.GiveAway(l.listener, l.start, func() {
		l.close()
		l.wait()
	})
	return l, nil
}

func (l *dataLoop) free() {
	l.poller.Close()
	l.in.Free()
}

// watch makes the loop read a relay, from now until it is closed.
func (l *dataLoop) watch(r *relay) error {
	socket := r.conn.(*batch.Socket)
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		l.last++
		if _, taken := l.relays[l.last]; !taken && l.last > listenerNumber {
			break
		}
	}
	if err := l.poller.Add(socket, l.last); err != nil {
		return err
	}
	r.number = l.last
	l.relays[r.number] = r
	return nil
}

// forget is called by a relay that is being closed, watched or not.
func (l *dataLoop) forget(r *relay) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.relays[r.number] == r {
		delete(l.relays, r.number)
	}
}

// closed is called when nothing leads to a relay of the loop any more.
func (l *dataLoop) closed() { l.stale.Store(true) }

func (l *dataLoop) relay(number uint32) *relay {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.relays[number]
}

// wake makes the loop go round.
func (l *dataLoop) wake() { l.poller.Interrupt() }

// start lets the engine run the loop.
func (l *dataLoop) start() { l.starting.Do(func() { close(l.started) }) }

// close ends the loop and all allocations on its lane.
func (l *dataLoop) close() {
	l.closing.Store(true)
	l.wake()
	l.start()
}

// wait returns when the loop has ended. It must have been closed.
func (l *dataLoop) wait() {
	if l.front.engine != nil { // Else the start failed, and nobody runs it.
		<-l.ended
	}
}

// run relays until close. It is a coroutine of the engine's read loop for the lane:
// package engine tells how.
func (l *dataLoop) run() {
	defer close(l.ended)
	<-l.started
	for !l.closing.Load() && l.await() {
		l.lane.Rouse()
		l.turn()
		l.lane.ReleaseClosed(false)
		l.forgetClosed()
	}
	l.finish()
}

// await waits for something to read. While all of it is for clients of streams, who get it when
// they are written to next, it is read just before that.
func (l *dataLoop) await() bool {
	if l.front.cfg.MaxNap > 0 && l.latest.Sub(l.other) > streamsAlone {
		l.poller.Prolong(transport.UntilRelaysAreRead())
	}
	return l.poller.Await()
}

// finish ends what is on the loop's lane, which nobody can use any more.
func (l *dataLoop) finish() {
	l.mu.Lock()
	relays := slices.Collect(maps.Values(l.relays))
	l.mu.Unlock()
	for _, r := range relays {
		if r.alloc.lane == l.lane {
			r.alloc.end(endClosed)
		}
	}
	l.lane.ReleaseClosed(true)
}

// turn reads some of what waits at every socket and sends it on.
func (l *dataLoop) turn() {
	began, backlog := time.Now(), false
	l.packets, l.streamed = 0, 0
	l.begin()
	for i := range l.poller.Found() {
		if l.in.Full() {
			l.sendOn()
			l.begin()
		}
		backlog = l.read(l.poller.Ready(i)) || backlog
	}
	l.sendOn()
	l.poller.Turned(l.packets, backlog, began)
	if l.latest = began; l.packets > l.streamed {
		l.other = began
	}
}

// begin forgets what may not be so any more.
func (l *dataLoop) begin() {
	l.now = l.front.now()
	l.way, l.peer = nil, nil
}

func (l *dataLoop) sendOn() {
	l.countCrossed()
	l.out.Flush()
	l.in.Reset()
	l.records.reset()
}

// flushed counts what the outbox has sent.
func (l *dataLoop) flushed(sent *batch.Flushed) {
	up, down := &sent[toPeers], &sent[toClients]
	if up.Packets > 0 {
		l.relayed.sentToPeer(up.Packets, up.Bytes)
	}
	if down.Packets > 0 {
		l.relayed.receivedFromPeer(down.Packets, down.Bytes)
	}
	if failed := up.Failed + down.Failed; failed > 0 {
		l.front.metrics.droppedPackets(dropSendError, failed)
	}
	if failed := down.Failed + sent[answers].Failed; failed > 0 {
		l.server.Unsent(failed)
	}
	l.packets += up.Packets + up.Failed + down.Packets + down.Failed
}

// read reads datagrams from one socket, and says whether there may be more.
func (l *dataLoop) read(number uint32) (more bool) {
	if number == batch.WakeNumber {
		l.poller.Heed()
		return false
	}
	socket, r := l.listener, (*relay)(nil)
	if number != listenerNumber {
		if r = l.relay(number); r == nil {
			return false
		}
		socket = r.conn.(*batch.Socket)
	}
	first, end, more, err := l.in.Read(socket)
	if err != nil {
		l.failed(r, err)
		return false
	}
	if r == nil {
		l.share.read(more, l.now)
	}
	for i := first; i < end; i++ {
		segment, mark, dropped := l.in.Details(socket, i)
		l.mark = mark
		if dropped > 0 {
			l.front.metrics.kernelDrops.Add(float64(dropped))
		}
		if r == nil {
			l.fromClient(i, segment)
		} else {
			l.fromPeer(r, i, segment)
		}
	}
	l.in.Tune(socket, first, end, more, l.now)
	return more
}

// failed notes an error of a socket, which reading it has cleared.
func (l *dataLoop) failed(r *relay, err error) {
	if r == nil {
		l.server.Failed()
	}
	l.front.debug("turn packet not read", "transport", transport.UDP.String(), "error", err)
}

// fromClient handles a datagram of a client, which may be merged from several.
func (l *dataLoop) fromClient(i, segment int) {
	client := l.in.Sender(i)
	if client.Port() == 0 {
		l.server.Refused(1)
		return
	}
	from := transport.FiveTuple{Protocol: transport.UDP, Client: client, Server: l.server.Asked(l.in.Control(i))}
	datagram := l.in.Datagram(i)
	l.excess = l.share.drops(from, batch.Count(datagram, segment), l.now)
	for packet := range batch.Packets(datagram, segment) {
		if l.server.IsDTLS(packet) {
			l.server.Unseal(from.Client, from.Server, packet, l.mark, l.unseal)
			continue
		}
		l.lookAt(from, nil)
		l.packet(packet)
	}
}

// lookAt tells whose packets come next.
func (l *dataLoop) lookAt(from transport.FiveTuple, secure *transport.DTLSConn) {
	if from != l.from || secure != l.secure {
		l.from, l.secure, l.way = from, secure, nil
	}
}

// packet handles a packet of the client that is looked at.
func (l *dataLoop) packet(packet []byte) {
	switch {
	case len(packet) < wire.ChannelHeader || !wire.IsDataFromClient(packet):
		l.control(packet)
	case l.excess:
		l.front.metrics.dropped(dropShare)
	default:
		l.data(packet)
	}
}

// control hands over what is not data, after the data before it, whose relays it
// may close.
func (l *dataLoop) control(packet []byte) {
	if len(packet) == 0 {
		return
	}
	if l.out.Waiting(toPeers) {
		l.out.Flush()
	}
	l.front.message(request{loop: l, from: l.from, via: l.path()}, packet)
	l.way, l.peer = nil, nil
}

// path returns the way back to the client that is looked at.
func (l *dataLoop) path() transport.Path {
	if a := l.front.allocation(l.from); a != nil {
		return a.via
	}
	if l.secure != nil {
		return l.secure
	}
	return l.server.PathTo(l.from.Client, l.from.Server)
}

// reply sends an answer to a client of the listener with the rest of the turn. The
// packet must not change any more.
func (l *dataLoop) reply(via transport.Path, packet []byte) {
	to, secure := clientSlot(via, answers)
	if secure != nil {
		l.seal(secure, &to, nil, packet, 0, 0)
		return
	}
	l.out.AddFrame(&to, packet, 0)
}

// data relays data of the client that is looked at, as front.relayToPeer does, with a
// memory of what was decided about its channels.
func (l *dataLoop) data(packet []byte) {
	if !wire.IsChannelData(packet) {
		l.indication(packet)
		return
	}
	number := binary.BigEndian.Uint16(packet)
	if !l.find(number) {
		if p, ok := l.front.route(l.from, packet, l.now); ok {
			l.way.remember(l.from, number, p)
			l.onChannel(packet, p.payload)
		}
		return
	}
	_, payload, ok := wire.ParseChannelData(packet)
	if !ok {
		l.front.metrics.dropped(dropMalformed)
		return
	}
	if l.way.out.admit(payload, l.now) {
		l.onChannel(packet, payload)
	}
}

// indication relays a Send indication of the client that is looked at.
func (l *dataLoop) indication(packet []byte) {
	p, ok := l.front.route(l.from, packet, l.now)
	if !ok {
		return
	}
	p.mark = l.mark
	if p.across != nil {
		l.cross(p.relay, p.across, nil, p.payload)
		return
	}
	if p.dontFragment {
		l.out.Flush() // What came before leaves before.
		l.front.send(p)
		return
	}
	to := peerSlot(p.relay, p.to)
	to.Mark = p.mark
	l.out.Add(&to, nil, p.payload, 0)
}

// fromPeer handles a datagram of a peer, which may be merged from several.
func (l *dataLoop) fromPeer(r *relay, i, segment int) {
	p := l.lookUp(r, l.in.Sender(i))
	datagram := l.in.Datagram(i)
	single := segment <= 0 || segment >= len(datagram)
	for payload := range batch.Packets(datagram, segment) {
		switch {
		case !p.admits(payload, l.now):
		case single && p.inPlace():
			var space [wire.DataIndicationHeader]byte
			header, padding := p.inbound.appendHeader(space[:0], len(payload))
			l.out.AddFrame(&p.slot, l.in.Frame(i, header, padding), len(payload))
		default:
			l.toClient(payload)
		}
	}
}

// toClient sends a payload to the client of the recent peer.
func (l *dataLoop) toClient(payload []byte) {
	p := l.peer
	if p.slot.Socket == nil {
		l.toStream(p.relay, payload)
		return
	}
	header, padding := p.inbound.appendHeader(l.out.HeaderSpace(), len(payload))
	if p.secure != nil {
		l.seal(p.secure, &p.slot, header, payload, padding, len(payload))
		return
	}
	l.out.Add(&p.slot, header, payload, padding)
}

// toStream sends a payload of the recent peer to a client of a stream, whose path
// copies it.
func (l *dataLoop) toStream(r *relay, payload []byte) {
	frame, padding := l.peer.inbound.appendHeader(l.scratch[:0], len(payload))
	frame = append(append(frame, payload...), make([]byte, padding)...)
	l.packets++
	l.streamed++
	if err := r.alloc.via.Send(frame, l.mark); err != nil {
		l.front.metrics.dropped(dropSendError)
		return
	}
	l.relayed.receivedFromPeer(1, len(payload))
}

// peerSlot is where packets to a relay's peer are collected.
func peerSlot(r *relay, peer netip.AddrPort) batch.Slot {
	return batch.NewSlot(batch.Destination{Socket: r.conn.(*batch.Socket), To: peer}, toPeers)
}

// clientSlot is where packets to a client are collected, and what seals them for one of
// DTLS. It leads nowhere for a stream, or when no loop reads the client's listener.
func clientSlot(via transport.Path, class batch.Class) (_ batch.Slot, secure *transport.DTLSConn) {
	var path *transport.UDPPath
	switch via := via.(type) {
	case *transport.UDPPath:
		path = via
	case *transport.DTLSConn:
		path, secure = via.Carrier(), via
	default:
		return batch.NewSlot(batch.Destination{}, class), nil
	}
	socket, _ := path.Conn().(*batch.Socket)
	return batch.NewSlot(batch.Destination{Socket: socket, To: path.Client(), Control: path.Control()}, class), secure
}

// openRelay opens the socket of a relay that a data loop will read.
func openRelay(at netip.AddrPort) (batch.Conn, error) { return batch.Open(at) }
