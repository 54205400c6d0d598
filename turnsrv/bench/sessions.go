package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"cline-meet/signal/signal/bench/measure"
	"cline-meet/signal/turnsrv/turnclient"
)

// session is one client over TCP, TLS or DTLS. Its goroutines share nothing but the
// atomic numbers until they have ended.
type session struct {
	number  uint32
	channel uint16
	client  *turnclient.Client
	peer    *net.UDPConn

	sent, arrived atomic.Uint64 // sent and arrived count at the ends of the way that is measured.
	up, down      tally
	samples       []time.Duration
}

func openSession(number uint32, transport string, t *target, o Options) (*session, error) {
	c, err := dial(transport, t.address(transport), o.credential())
	if err != nil {
		return nil, err
	}
	f := &session{number: number, channel: turnclient.FirstChannel + uint16(number), client: c}
	if err := c.Allocate(); err != nil {
		c.Close()
		return nil, err
	}
	local, err := netip.ParseAddrPort(c.Conn.LocalAddr().String())
	if err != nil {
		c.Close()
		return nil, err
	}
	f.peer, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local.Addr(), 0)), net.UDPAddrFromAddrPort(c.Relay))
	if err != nil {
		c.Close()
		return nil, err
	}
	_ = f.peer.SetReadBuffer(4 << 20)
	defer func() { _ = c.Conn.SetReadDeadline(time.Time{}) }() // That of the last answer.
	if err := c.BindChannel(f.channel, f.peer.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *session) close() {
	f.client.Close()
	_ = f.peer.Close()
}

// sessions runs a scenario with clients over TCP, TLS or DTLS. It is no fast generator,
// and measures no more than what the server does with its load.
func sessions(ctx context.Context, s scenario, t *target, o Options) (result, error) {
	if s.train > 0 || s.queue > 0 || s.pair {
		return result{}, fmt.Errorf("%s is for udp", s.name)
	}
	var flows []*session
	var receivers sync.WaitGroup
	defer receivers.Wait()
	defer func() {
		for _, f := range flows {
			f.close()
		}
	}()
	for i := range s.clients {
		f, err := openSession(uint32(i), s.via, t, o)
		if err != nil {
			return result{}, fmt.Errorf("client %d: %w", i, err)
		}
		flows = append(flows, f)
	}
	for _, f := range flows {
		receivers.Go(func() { f.receiveUp(s, o.Verify) })
		receivers.Go(func() { f.receiveDown(s, o.Verify) })
	}
	start, cpu := time.Now(), t.CPU()
	sending, cancel := context.WithTimeout(ctx, o.Duration)
	defer cancel()
	var senders sync.WaitGroup
	for _, f := range flows {
		senders.Go(func() { f.send(sending, s, o.Verify) })
	}
	senders.Wait()
	seconds := time.Since(start).Seconds()
	measure.Pause(ctx, 2*drainTime)
	used := t.CPU() - cpu
	for _, f := range flows {
		f.close()
	}
	receivers.Wait()
	return sessionResult(s, flows, seconds, used), ctx.Err()
}

func sessionResult(s scenario, flows []*session, seconds float64, used time.Duration) result {
	r := result{Scenario: s.name, Seconds: seconds, Load: used.Seconds() / seconds}
	var sent, arrived uint64
	var samples []time.Duration
	for _, f := range flows {
		sent += f.sent.Load()
		arrived += f.arrived.Load()
		r.Delivered += f.up.Received + f.down.Received
		r.Corrupt += f.up.Corrupt + f.down.Corrupt
		r.Reordered += f.up.Reordered + f.down.Reordered
		samples = append(samples, f.samples...)
	}
	r.Rate = float64(r.Delivered) / seconds
	if r.Delivered > 0 {
		r.CPU = float64(used.Microseconds()) / float64(r.Delivered)
	}
	r.Lost = sent - min(sent, arrived)
	r.Loss = float64(r.Lost) / float64(max(sent, 1))
	r.setPercentiles(samples)
	return r
}

// sessionWindow bounds what a saturating client has under way: little enough for
// the queue of a slow client.
const sessionWindow = 64

func (f *session) send(ctx context.Context, s scenario, pattern bool) {
	frame := make([]byte, turnclient.ChannelHeader+s.size+3)
	binary.BigEndian.PutUint16(frame, f.channel)
	binary.BigEndian.PutUint16(frame[2:], uint16(s.size))
	due := time.Now()
	for ctx.Err() == nil {
		if s.rate > 0 {
			due = due.Add(time.Second / time.Duration(s.rate))
			measure.Pause(ctx, time.Until(due))
		} else if f.sent.Load()-f.arrived.Load() >= sessionWindow {
			measure.Pause(ctx, 100*time.Microsecond)
			continue
		}
		payload := frame[turnclient.ChannelHeader : turnclient.ChannelHeader+s.size]
		putPayload(payload, f.number, f.sent.Load(), time.Now().UnixNano(), pattern)
		var err error
		if s.way == down {
			_, err = f.peer.Write(payload)
		} else {
			_, err = f.client.Conn.Write(frame[:(turnclient.ChannelHeader+s.size+3)&^3])
		}
		if err != nil {
			return
		}
		f.sent.Add(1)
	}
}

func (f *session) receiveUp(s scenario, pattern bool) {
	buffer := make([]byte, 2048)
	for {
		n, err := f.peer.Read(buffer)
		if err != nil {
			return
		}
		sent := f.up.take(buffer[:n], f.number, s.size, pattern)
		if s.way == echo {
			_, _ = f.peer.Write(buffer[:n])
			continue
		}
		f.arrived.Add(1)
		f.sample(sent)
	}
}

func (f *session) receiveDown(s scenario, pattern bool) {
	for {
		frame, err := f.client.Read()
		if err != nil {
			return
		}
		if frame[0]>>6 != 1 || binary.BigEndian.Uint16(frame) != f.channel {
			f.down.Corrupt++
			continue
		}
		f.arrived.Add(1)
		f.sample(f.down.take(frame[turnclient.ChannelHeader:], f.number, s.size, pattern))
	}
}

// sample is called by one of the receivers, that of the far end.
func (f *session) sample(sent int64) {
	if sent > 0 && len(f.samples) < 1<<20 {
		f.samples = append(f.samples, time.Duration(time.Now().UnixNano()-sent))
	}
}
