package turnsrv

import (
	"fmt"
	"net/netip"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// firstChannel is the channel number that checks use.
const firstChannel uint16 = 0x4000

// wireAllocation is what a check that relays works with.
type wireAllocation struct {
	*wireClient
	bed   *testbed
	relay netip.AddrPort
}

// withAllocation runs f with an allocation made over network with attrs.
func withAllocation(network string, f func(*wireAllocation) error, attrs ...stun.Setter) wireCheck {
	return withClient(network, func(b *testbed, c *wireClient) error {
		relay, _, err := wireAllocate(c, attrs...)
		if err != nil {
			return err
		}
		return f(&wireAllocation{c, b, relay})
	})
}

// wireAllocate makes a UDP allocation and returns its relayed address.
func wireAllocate(c *wireClient, attrs ...stun.Setter) (netip.AddrPort, *stun.Message, error) {
	answer, err := c.accepts(stun.MethodAllocate, append([]stun.Setter{attrTransport(17)}, attrs...)...)
	if err != nil {
		return netip.AddrPort{}, answer, err
	}
	relay, err := answerAddress(answer, stun.AttrXORRelayedAddress)
	return relay, answer, err
}

// allocateRefused expects an Allocate request with just these attributes to fail.
func allocateRefused(code int, attrs ...stun.Setter) wireCheck {
	return withClient("udp", func(_ *testbed, c *wireClient) error {
		return c.refuses(code, stun.MethodAllocate, attrs...)
	})
}

// refusedWithAllocation expects a request to an allocation to fail.
func refusedWithAllocation(code int, method stun.Method, attrs ...stun.Setter) wireCheck {
	return withAllocation("udp", func(a *wireAllocation) error { return a.refuses(code, method, attrs...) })
}

// refusedWithoutAllocation expects a request without one to fail.
func refusedWithoutAllocation(code int, method stun.Method, attrs ...stun.Setter) wireCheck {
	return withClient("udp", func(_ *testbed, c *wireClient) error { return c.refuses(code, method, attrs...) })
}

// checkAllocate looks at all that a success must hold.
func checkAllocate(network string) wireCheck {
	return withClient(network, func(_ *testbed, c *wireClient) error {
		relay, answer, err := wireAllocate(c)
		if err != nil {
			return err
		}
		if relay.Port() == 0 || relay.Addr() != loopbackIPv4 {
			return fmt.Errorf("relayed address %s", relay)
		}
		mapped, err := answerAddress(answer, stun.AttrXORMappedAddress)
		if err != nil {
			return err
		}
		if mapped != c.local() {
			return fmt.Errorf("mapped address %s, want %s", mapped, c.local())
		}
		_, err = answerLifetime(answer)
		return err
	})
}

// checkRetransmission sends the same bytes twice.
func checkRetransmission(_ *testbed, c *wireClient) error {
	m := c.signed(stun.MethodAllocate, attrTransport(17))
	var relays [2]netip.AddrPort
	for i := range relays {
		answer, err := c.exchange(m)
		if err != nil {
			return err
		}
		if err := wantSuccess(answer); err != nil {
			return fmt.Errorf("transmission %d: %w", i+1, err)
		}
		if relays[i], err = answerAddress(answer, stun.AttrXORRelayedAddress); err != nil {
			return err
		}
	}
	if relays[0] != relays[1] {
		return fmt.Errorf("relayed address %s, then %s", relays[0], relays[1])
	}
	return nil
}

// checkFamilyIPv6 takes a relay of the right family, or a refusal with 440.
func checkFamilyIPv6(_ *testbed, c *wireClient) error {
	answer, err := c.call(stun.MethodAllocate, attrTransport(17), attrFamily(2))
	if err != nil {
		return err
	}
	if answerCode(answer) == 440 {
		return nil
	}
	if err := wantSuccess(answer); err != nil {
		return err
	}
	relay, err := answerAddress(answer, stun.AttrXORRelayedAddress)
	if err == nil && !relay.Addr().Is6() {
		err = fmt.Errorf("an IPv6 relay was asked for, the relayed address is %s", relay)
	}
	return err
}

// checkAdditionalIPv6 takes two relays, or an IPv4 relay and the reason why it
// is the only one.
func checkAdditionalIPv6(_ *testbed, c *wireClient) error {
	_, answer, err := wireAllocate(c, attrAdditionalFamily(2))
	if err != nil {
		return err
	}
	relays := 0
	for _, attr := range answer.Attributes {
		if attr.Type == stun.AttrXORRelayedAddress {
			relays++
		}
	}
	reason, err := answer.Get(wire.AttrAddressErrorCode)
	explained := err == nil && len(reason) >= 4 && reason[0] == 2 && reason[2]&7 == 4
	if relays != 2 && !explained {
		return fmt.Errorf("%d relayed addresses and ADDRESS-ERROR-CODE %x", relays, reason)
	}
	return nil
}

// checkIPv6Relay relays both ways over IPv6 where the server has such relays.
func checkIPv6Relay(b *testbed, c *wireClient) error {
	relay, answer, err := wireAllocate(c, attrFamily(2))
	if answer != nil && answerCode(answer) == 440 {
		return errNotHere
	}
	if err != nil {
		return err
	}
	if !relay.Addr().Is6() {
		return fmt.Errorf("an IPv6 relay was asked for, the relayed address is %s", relay)
	}
	ipv4 := netip.AddrPortFrom(loopbackIPv4, relay.Port())
	if err := c.refuses(443, stun.MethodCreatePermission, attrPeer(ipv4)); err != nil {
		return err
	}
	return (&wireAllocation{c, b, relay}).bothWays(loopbackIPv6)
}

// checkEvenPort asks several times, since every second port is even anyway.
func checkEvenPort(b *testbed) error {
	for range 3 {
		c, err := b.client("udp")
		if err != nil {
			return err
		}
		relay, _, err := wireAllocate(c, attrEvenPort(false))
		if err != nil {
			return err
		}
		if relay.Port()%2 != 0 {
			return fmt.Errorf("relay port %d", relay.Port())
		}
	}
	return nil
}

// reserve allocates an even port and returns the token of the next one.
func reserve(b *testbed) (relay netip.AddrPort, token stun.Setter, err error) {
	c, err := b.client("udp")
	if err != nil {
		return relay, nil, err
	}
	relay, answer, err := wireAllocate(c, attrEvenPort(true))
	if err != nil {
		return relay, nil, err
	}
	value, err := answer.Get(stun.AttrReservationToken)
	if err != nil || len(value) != 8 || relay.Port()%2 != 0 {
		return relay, nil, fmt.Errorf("relay port %d with RESERVATION-TOKEN %x", relay.Port(), value)
	}
	return relay, attrRaw(stun.AttrReservationToken, value...), nil
}

// checkReservation uses the token from another 5-tuple.
func checkReservation(b *testbed) error {
	first, token, err := reserve(b)
	if err != nil {
		return err
	}
	return withAllocation("udp", func(a *wireAllocation) error {
		if a.relay != netip.AddrPortFrom(first.Addr(), first.Port()+1) {
			return fmt.Errorf("reserved by %s, the token gave %s", first, a.relay)
		}
		return nil
	}, token)(b)
}

// checkTokenUsed uses a token twice.
func checkTokenUsed(b *testbed) error {
	_, token, err := reserve(b)
	if err != nil {
		return err
	}
	return withAllocation("udp", func(*wireAllocation) error {
		return allocateRefused(508, attrTransport(17), token)(b)
	}, token)(b)
}

// checkDontFragment takes support, or a 420 that names the attribute.
func checkDontFragment(_ *testbed, c *wireClient) error {
	answer, err := c.call(stun.MethodAllocate, attrTransport(17), attrRaw(stun.AttrDontFragment))
	if err != nil || answer.Type.Class == stun.ClassSuccessResponse {
		return err
	}
	return want420(answer, stun.AttrDontFragment)
}

// checkAllocateLifetime compares the granted time, in seconds.
func checkAllocateLifetime(want int, attrs ...stun.Setter) wireCheck {
	return withClient("udp", func(_ *testbed, c *wireClient) error {
		_, answer, err := wireAllocate(c, attrs...)
		if err != nil {
			return err
		}
		return wantLifetime(answer, want)
	})
}

// checkRefreshLifetime does the same for a Refresh.
func checkRefreshLifetime(want int, attrs ...stun.Setter) wireCheck {
	return withAllocation("udp", func(a *wireAllocation) error {
		answer, err := a.accepts(stun.MethodRefresh, attrs...)
		if err != nil {
			return err
		}
		return wantLifetime(answer, want)
	})
}

func wantLifetime(answer *stun.Message, want int) error {
	got, err := answerLifetime(answer)
	if err == nil && got != want {
		err = fmt.Errorf("LIFETIME %d, want %d", got, want)
	}
	return err
}

// checkMaximumLifetime asks for more and more, and gets the same.
func checkMaximumLifetime(a *wireAllocation) error {
	var granted []int
	for _, asked := range []uint32{3600, 100000, 1<<32 - 1} {
		answer, err := a.accepts(stun.MethodRefresh, attrLifetime(asked))
		if err != nil {
			return err
		}
		got, err := answerLifetime(answer)
		if err != nil {
			return err
		}
		granted = append(granted, got)
	}
	if granted[0] < 3000 || granted[0] > 3600 || granted[1] != granted[0] || granted[2] != granted[0] {
		return fmt.Errorf("LIFETIME 3600, 100000, 4294967295 became %v", granted)
	}
	return nil
}

// checkDelete ends an allocation and opens another one from the same place.
func checkDelete(a *wireAllocation) error {
	answer, err := a.accepts(stun.MethodRefresh, attrLifetime(0))
	if err != nil {
		return err
	}
	if err := wantLifetime(answer, 0); err != nil {
		return err
	}
	if err := a.refuses(437, stun.MethodRefresh); err != nil {
		return fmt.Errorf("after the deletion: %w", err)
	}
	if _, _, err := wireAllocate(a.wireClient); err != nil {
		return fmt.Errorf("after the deletion: %w", err)
	}
	return nil
}

// checkNoHeritage gives a peer a permission, ends the allocation, and sends to
// the peer from the next one.
func checkNoHeritage(a *wireAllocation) error {
	p, err := a.bed.peer(loopbackIPv4)
	if err != nil {
		return err
	}
	if err := a.permitAndSend(p)([]byte("before")); err != nil {
		return err
	}
	if err := p.wants([]byte("before")); err != nil {
		return err
	}
	if _, err := a.accepts(stun.MethodRefresh, attrLifetime(0)); err != nil {
		return err
	}
	if _, _, err := wireAllocate(a.wireClient); err != nil {
		return fmt.Errorf("after the deletion: %w", err)
	}
	early := []byte("early")
	if err := a.sendTo(p.addr(), early); err != nil {
		return err
	}
	return notRelayed(p, early, a.permitAndSend(p))
}

// checkOtherUser lets a second valid user touch an allocation, and the owner
// again afterwards.
func checkOtherUser(method stun.Method, attrs ...stun.Setter) wireCheck {
	return withAllocation("udp", func(a *wireAllocation) error {
		username, credential := a.username, a.password
		a.username, a.password = a.bed.credentials("-other")
		if err := a.refuses(441, method, attrs...); err != nil {
			return err
		}
		a.username, a.password = username, credential
		_, err := a.accepts(stun.MethodRefresh)
		return err
	})
}

// checkQuota opens one allocation too many.
func checkQuota(b *testbed) error {
	for range conformanceQuota {
		c, err := b.client("udp")
		if err != nil {
			return err
		}
		if _, _, err := wireAllocate(c); err != nil {
			return err
		}
	}
	return allocateRefused(486, attrTransport(17))(b)
}
