//go:build linux && (amd64 || arm64)

package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"cline-meet/signal/turnsrv/bench/internal/udpio"
	"cline-meet/signal/turnsrv/turnclient"
)

const (
	burst    = 32           // burst is how many packets one system call sends.
	receives = 64           // receives is how many packets, or trains, one system call takes.
	slotSize = 64<<10 + 192 // slotSize is room for a train; a power of two would share lines of the cache.

	// window bounds what a saturating client has under way, so that the slowest
	// part decides the rate and not the loss.
	window = 256

	// stalled is when what is under way counts as lost.
	stalled = 20 * time.Millisecond

	socketSize = 4 << 20
)

// engine sends and receives for all flows of a run, in one goroutine.
type engine struct {
	scenario scenario
	verify   bool
	flows    []*flow
	epoll    int
	events   []unix.EpollEvent

	frames  []byte // frames is what is sent next.
	sends   []udpio.Message
	vectors []unix.Iovec
	control []byte

	slots    []byte
	takes    []udpio.Message
	takeIOs  []unix.Iovec
	takeCtl  []byte
	samples  []time.Duration
	nth      int
	sampling int // sampling is how many packets there are for one sample.
}

// newSender returns an engine that can only send.
func newSender(s scenario) *engine {
	return &engine{
		scenario: s, sampling: 1,
		frames:  make([]byte, max(burst, s.train)*(turnclient.ChannelHeader+s.size)),
		sends:   make([]udpio.Message, max(burst, receives)),
		vectors: make([]unix.Iovec, max(burst, receives)),
	}
}

func newEngine(s scenario, verify bool, open opener) (*engine, error) {
	e := newSender(s)
	e.verify = verify
	e.events = make([]unix.EpollEvent, 2*s.clients)
	e.slots = make([]byte, receives*slotSize)
	e.takes = make([]udpio.Message, receives)
	e.takeIOs = make([]unix.Iovec, receives)
	e.takeCtl = make([]byte, receives*udpio.ControlSpace)
	if s.rate == 0 {
		e.sampling = 16
	}
	var err error
	if e.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	for i := range s.clients {
		f, err := open(uint32(i))
		if err != nil {
			e.close()
			return nil, fmt.Errorf("client %d: %w", i, err)
		}
		e.flows = append(e.flows, f)
		if err := e.watch(f, i); err != nil {
			e.close()
			return nil, err
		}
	}
	return e, nil
}

func (e *engine) watch(f *flow, i int) error {
	for side, fd := range []int{f.client, f.peer} {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(2*i + side)}
		if err := unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			return err
		}
		if e.scenario.train > 0 {
			_ = udpio.SetGRO(fd, true)
		}
	}
	return nil
}

func (e *engine) close() {
	for _, f := range e.flows {
		f.close()
	}
	_ = unix.Close(e.epoll)
}

// counters is the state of a run at one moment.
type counters struct {
	at              time.Time
	sent, delivered uint64
	cpu             time.Duration
}

// run makes the load and measures it after a warm-up.
func (e *engine) run(ctx context.Context, warmup, length time.Duration, cpu func() time.Duration) (result, error) {
	start := time.Now()
	for i, f := range e.flows {
		f.moved = start
		if e.scenario.rate > 0 {
			f.due = start.Add(time.Second / time.Duration(e.scenario.rate) * time.Duration(i) / time.Duration(len(e.flows)))
		}
	}
	if err := e.until(ctx, start.Add(warmup), true); err != nil {
		return result{}, err
	}
	e.samples = e.samples[:0]
	from := e.counters(cpu)
	if err := e.until(ctx, time.Now().Add(length), true); err != nil {
		return result{}, err
	}
	to := e.counters(cpu)
	if err := e.until(ctx, time.Now().Add(drainTime), false); err != nil {
		return result{}, err
	}
	return e.result(from, to), nil
}

func (e *engine) counters(cpu func() time.Duration) counters {
	c := counters{at: time.Now(), cpu: cpu()}
	for _, f := range e.flows {
		c.sent += f.sent
		c.delivered += f.up.Received + f.down.Received
	}
	return c
}

func (e *engine) result(from, to counters) result {
	seconds := to.at.Sub(from.at).Seconds()
	delivered := to.delivered - from.delivered
	r := result{Scenario: e.scenario.name, Seconds: seconds, Delivered: delivered, Rate: float64(delivered) / seconds}
	if delivered > 0 {
		r.CPU = float64((to.cpu - from.cpu).Microseconds()) / float64(delivered)
	}
	r.Load = (to.cpu - from.cpu).Seconds() / seconds
	var sent, arrived uint64
	for _, f := range e.flows {
		r.Corrupt += f.up.Corrupt + f.down.Corrupt
		r.Reordered += f.up.Reordered + f.down.Reordered
		sent += f.sent
		if e.scenario.way == up {
			arrived += f.up.Received
		} else {
			arrived += f.down.Received
		}
	}
	r.Lost = sent - min(sent, arrived)
	r.Loss = float64(r.Lost) / float64(max(sent, 1))
	r.setPercentiles(e.samples)
	return r
}

// until sends, if it is to, and receives until a moment.
func (e *engine) until(ctx context.Context, end time.Time, send bool) error {
	for {
		now := time.Now()
		if now.After(end) || ctx.Err() != nil {
			return ctx.Err()
		}
		wait := min(end.Sub(now), time.Millisecond)
		if send {
			wait = min(wait, e.sendDue(now))
		}
		if _, err := e.take(wait); err != nil {
			return err
		}
	}
}

// take waits for packets and receives some from each socket that has any. It
// returns the number of those.
func (e *engine) take(wait time.Duration) (sockets int, err error) {
	n, errno := udpio.Wait(e.epoll, e.events, wait)
	if errno != 0 && errno != unix.EINTR {
		return 0, fmt.Errorf("waiting for packets: %w", errno)
	}
	for _, event := range e.events[:n] {
		e.receive(e.flows[event.Fd/2], event.Fd%2 == 1)
	}
	return n, nil
}

// sendDue sends for every client whose turn it is and returns how long until the
// next one's.
func (e *engine) sendDue(now time.Time) time.Duration {
	wait := time.Millisecond
	for _, f := range e.flows {
		if e.scenario.rate == 0 {
			if e.saturate(f, now) {
				wait = 0
			}
			continue
		}
		for !f.due.After(now) {
			e.send(f, 1, f.due)
			f.due = f.due.Add(time.Second / time.Duration(e.scenario.rate))
		}
		wait = min(wait, f.due.Sub(now))
	}
	return max(wait, 0)
}

// saturate sends a burst if there is room in the window, and reports whether
// there was.
func (e *engine) saturate(f *flow, now time.Time) bool {
	f.base = max(f.base, f.far(e.scenario.way).next)
	count := max(burst, e.scenario.train)
	if f.sent-f.base+uint64(count) > window {
		if now.Sub(f.moved) < stalled {
			return false
		}
		f.base = f.sent
	}
	f.moved = now
	e.send(f, count, now)
	return true
}

// send sends packets of a flow that count as sent at a moment.
func (e *engine) send(f *flow, count int, at time.Time) {
	fd, header := f.client, turnclient.ChannelHeader
	if e.scenario.way == down {
		fd, header = f.peer, e.header(true)
	}
	size := header + e.scenario.size
	frames := e.frames[:count*size]
	for i := range count {
		frame := frames[i*size : (i+1)*size]
		if header > 0 {
			binary.BigEndian.PutUint16(frame, f.channel)
			binary.BigEndian.PutUint16(frame[2:], uint16(e.scenario.size))
		}
		putPayload(frame[header:], f.number, f.sent+uint64(i), at.UnixNano(), e.verify)
	}
	if e.scenario.train > 1 {
		e.control = udpio.AppendSegment(append(e.control[:0], make([]byte, udpio.ControlSpace)...)[:0], size)
		e.message(0, frames, e.control)
		if n, _ := udpio.Send(fd, e.sends[:1]); n == 1 {
			f.sent += uint64(count)
		}
		return
	}
	for i := range count {
		e.message(i, frames[i*size:(i+1)*size], nil)
	}
	if n, errno := udpio.Send(fd, e.sends[:count]); errno == 0 {
		f.sent += uint64(n)
	}
}

// message makes one entry of what is sent next.
func (e *engine) message(i int, packet, control []byte) {
	e.vectors[i].Base = &packet[0]
	e.vectors[i].SetLen(len(packet))
	h := &e.sends[i].Header
	*h = unix.Msghdr{Iov: &e.vectors[i], Iovlen: 1}
	if len(control) > 0 {
		h.Control = &control[0]
		h.SetControllen(len(control))
	}
}

// receive takes what has come for one end of a flow.
func (e *engine) receive(f *flow, peer bool) {
	fd := f.client
	if peer {
		fd = f.peer
	}
	for i := range e.takes {
		e.takeIOs[i].Base = &e.slots[i*slotSize]
		e.takeIOs[i].SetLen(slotSize)
		e.takes[i].Header = unix.Msghdr{
			Iov: &e.takeIOs[i], Iovlen: 1, Control: &e.takeCtl[i*udpio.ControlSpace], Controllen: udpio.ControlSpace,
		}
	}
	n, errno := udpio.Receive(fd, e.takes)
	if errno != 0 {
		return
	}
	now := time.Now().UnixNano()
	for i := range e.takes[:n] {
		control := e.takeCtl[i*udpio.ControlSpace:][:e.takes[i].Header.Controllen]
		packets := e.slots[i*slotSize:][:e.takes[i].N]
		segment := udpio.ParseControl(control).Segment
		if segment == 0 {
			segment = len(packets)
		}
		for len(packets) > 0 {
			k := min(segment, len(packets))
			e.arrived(f, peer, packets[:k], now)
			packets = packets[k:]
		}
	}
	if peer && e.scenario.way == echo {
		for i := range n {
			e.message(i, e.slots[i*slotSize:][:e.takes[i].N], nil)
		}
		_, _ = udpio.Send(fd, e.sends[:n])
	}
}

// header is the length of what precedes the data of a channel, at who has one.
func (e *engine) header(peer bool) int {
	if peer && !e.scenario.pair {
		return 0
	}
	return turnclient.ChannelHeader
}

// arrived counts one packet at its far end.
func (e *engine) arrived(f *flow, peer bool, packet []byte, now int64) {
	t := &f.up
	if !peer {
		t = &f.down
	}
	if header := e.header(peer); header > 0 {
		if len(packet) < header || binary.BigEndian.Uint16(packet) != f.channel {
			t.Corrupt++
			return
		}
		packet = packet[header:]
	}
	sent := t.take(packet, f.number, e.scenario.size, e.verify)
	if sent == 0 || peer && e.scenario.way == echo {
		return
	}
	if e.nth++; e.nth%e.sampling == 0 {
		e.samples = append(e.samples, time.Duration(now-sent))
	}
}

// traffic runs one scenario with packets against a server.
func traffic(ctx context.Context, s scenario, t *target, o Options) (result, error) {
	e, err := newEngine(s, o.Verify, opening(s, t, o))
	if err != nil {
		return result{}, err
	}
	defer e.close()
	switch {
	case s.flood > 0:
		return flooded(ctx, e, t, o)
	case s.queue > 0:
		return e.takeTurns(ctx, o.Warmup(), o.Duration, t)
	}
	return e.run(ctx, o.Warmup(), o.Duration, t.CPU)
}
