package check

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/turnclient"
)

const (
	pings    = 10               // pings is how many round trips are measured.
	packets  = 100              // packets is how many are sent to see what is lost.
	pace     = time.Millisecond // pace is the time between them: about a video.
	size     = 1000             // size is that of each of them, in bytes.
	leastMTU = 1200             // leastMTU is what WebRTC sends at least.
	mostLoss = 5                // mostLoss is how many of 100 packets may be lost.
)

// sizes are those of packets that are tried to see how large they may be.
var sizes = []int{leastMTU, 1280, 1350, 1400, 1450}

// pair is two clients whose relays lead to each other.
type pair struct {
	near, far *turnclient.Client
	told      told // told is what both have said of themselves.
}

// echo is the check of two relays in one way, of which each is the peer of the other.
func (r *relays) echo(over string, family byte) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		p := pair{told: r.told}
		for _, c := range []**turnclient.Client{&p.near, &p.far} {
			client, end, err := r.again(ctx, r.good(over)[0])
			if err != nil {
				return "", err
			}
			defer end()
			if *c, err = client, allocate(client, family); err != nil {
				return "", err
			}
			defer func() { _ = client.Release() }()
		}
		if err := p.join(); err != nil {
			return "", err
		}
		return p.measure(ctx)
	}
}

func allocate(c *turnclient.Client, family byte) error {
	if family == turnclient.IPv4 {
		return refusedOr(c.Allocate())
	}
	err := c.AllocateOf(family)
	if turnclient.Refused(err, stun.CodeAddrFamilyNotSupported) || turnclient.Refused(err, stun.CodeUnknownAttribute) {
		return untried("the server has none")
	}
	return refusedOr(err)
}

func refusedOr(err error) error {
	if err == nil {
		return nil
	}
	return refusedRelay(err)
}

// join binds the channels and has both sides consent.
func (p *pair) join() error {
	err := p.near.BindChannel(turnclient.FirstChannel, p.far.Relay)
	if err == nil {
		err = p.far.BindChannel(turnclient.FirstChannel, p.near.Relay)
	}
	if turnclient.Refused(err, stun.CodeForbidden) {
		return faultf("let relays of the server be peers: see --turn-deny-peer (coturn: denied-peer-ip, allowed-peer-ip)",
			"the server refuses its own relays as peers (403), so that two who both need it cannot talk")
	}
	if err != nil {
		return err
	}
	return p.agree()
}

// measure returns what users will notice.
func (p *pair) measure(ctx context.Context) (string, error) {
	trip, err := p.ping(ctx)
	if err != nil {
		return "", err
	}
	lost, took := p.train(ctx)
	largest := p.largest()
	if ctx.Err() != nil {
		return "", untried("there was no time to measure what is lost, see --timeout")
	}
	detail := fmt.Sprintf("RTT %s, loss %d %%, %.1f Mbit/s, packets of %d bytes", round(trip), lost*100/packets,
		float64((packets-lost)*size*8)/took.Seconds()/1e6, largest)
	switch {
	case lost*100/packets > mostLoss:
		return "", faultf("find where packets are lost: bandwidth of the machine, --turn-bandwidth, --turn-total-bandwidth", "%s", detail)
	case largest < leastMTU:
		return "", faultf("let packets of 1280 bytes pass: find the tunnel or interface with a smaller MTU", "%s, WebRTC needs %d", detail, leastMTU)
	}
	return detail, nil
}

// ping returns the median time of a packet to the other relay and back. The first ones may be lost.
func (p *pair) ping(ctx context.Context) (time.Duration, error) {
	var trips []time.Duration
	for i := range pings {
		began := time.Now()
		if p.carry(uint64(i), 100, patience/(2*pings)) {
			trips = append(trips, time.Since(began))
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(trips) == 0 && ctx.Err() != nil {
		return 0, untried("there was no time to measure, see --timeout")
	}
	if len(trips) == 0 {
		return 0, faultf("look at the firewall between the relay ports of the server, and at --turn-external-ip (coturn: external-ip)",
			"two relays of the server hear nothing of each other")
	}
	slices.Sort(trips)
	return trips[len(trips)/2], nil
}

// carry sends a packet through both relays and back, and reports whether it came.
func (p *pair) carry(number uint64, size int, wait time.Duration) bool {
	data := numbered(number, size)
	deadline := time.Now().Add(wait)
	return p.near.Send(turnclient.FirstChannel, data) == nil && hear(p.far, number, deadline) &&
		p.far.Send(turnclient.FirstChannel, data) == nil && hear(p.near, number, deadline)
}

// media is the first bit of a packet of RTP: the relay passes nothing but what WebRTC sends.
const media = 1 << 63

func numbered(number uint64, size int) []byte {
	data := make([]byte, size)
	binary.BigEndian.PutUint64(data, media|number)
	return data
}

// numberOf returns the number of a packet of ours.
func numberOf(data []byte) (number uint64, ok bool) {
	if len(data) < 8 || data[0] != media>>56 {
		return 0, false
	}
	return binary.BigEndian.Uint64(data) &^ media, true
}

// hear reports whether a packet comes before the deadline.
func hear(c *turnclient.Client, number uint64, deadline time.Time) bool {
	for {
		data, err := c.Receive(deadline)
		if err != nil {
			return false
		}
		if n, ok := numberOf(data); ok && n == number {
			return true
		}
	}
}

// train sends many packets one way and returns how many were lost, and how long the rest took to come.
func (p *pair) train(ctx context.Context) (lost int, took time.Duration) {
	const first = 1 << 32
	began, sent := time.Now(), make(chan struct{})
	go func() {
		defer close(sent)
		for i := range packets {
			_ = p.near.Send(turnclient.FirstChannel, numbered(first+uint64(i), size)) // What is not sent is lost.
			time.Sleep(pace)
		}
	}()
	came, last := 0, began
	for came < packets && ctx.Err() == nil {
		data, err := p.far.Receive(time.Now().Add(patience / 4)) // This machine may send more slowly than it is to.
		if err != nil {
			break
		}
		if n, ok := numberOf(data); ok && n >= first {
			came, last = came+1, time.Now()
		}
	}
	<-sent
	return packets - came, max(last.Sub(began), time.Millisecond)
}

// largest returns the size of the largest packet that passes.
func (p *pair) largest() (most int) {
	for i, n := range sizes {
		if !p.carry(1<<33+uint64(i), n, patience/10) && !p.carry(1<<34+uint64(i), n, patience/10) {
			break
		}
		most = n
	}
	return most
}
