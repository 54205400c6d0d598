package relayaddr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/pion/stun/v2"
)

const (
	stunFirstWait = 500 * time.Millisecond // The RTO of RFC 8489, section 6.2.1; it doubles with every try.
	stunTries     = 4
	stunPause     = 10 * time.Millisecond
)

// stunQuery asks a STUN server over UDP which address a local one is seen at.
type stunQuery struct {
	server string        // server is host:port.
	wait   time.Duration // wait is for the first answer; it doubles with every try.
	tries  int
}

// run asks from bind, any port: a 1:1 NAT translates all ports alike. It returns
// an address of bind's family, or an error when no try has one or ctx ends.
func (q stunQuery) run(ctx context.Context, bind netip.Addr) (netip.Addr, error) {
	server, err := q.resolve(ctx, bind)
	if err != nil {
		return netip.Addr{}, err
	}
	local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(bind, 0))
	conn, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(server))
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	for try := range q.tries {
		var seen netip.Addr
		if seen, err = exchangeBinding(ctx, conn, q.wait<<try); err == nil {
			return q.check(seen, bind)
		}
		if ctx.Err() != nil {
			return netip.Addr{}, ctx.Err()
		}
	}
	return netip.Addr{}, fmt.Errorf("no address after %d tries: %w", q.tries, err)
}

// resolve returns an address of the server in the family of bind.
func (q stunQuery) resolve(ctx context.Context, bind netip.Addr) (netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(q.server)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	network := "ip4"
	if bind.Is6() {
		network = "ip6"
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(port)), nil
}

// exchangeBinding sends one request and reads until its answer comes or wait is
// over. Anything else that comes is ignored, as is the report that nobody
// listens, since a server that is being started may.
func exchangeBinding(ctx context.Context, conn *net.UDPConn, wait time.Duration) (netip.Addr, error) {
	request, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.Fingerprint)
	if err != nil {
		return netip.Addr{}, err
	}
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return netip.Addr{}, err
	}
	// A failure to send may pass, and the deadline bounds the reading anyway.
	_, _ = conn.Write(request.Raw)
	buf := make([]byte, 1500)
	var last error
	for {
		n, err := conn.Read(buf)
		var timeout net.Error
		switch {
		case err == nil:
		case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, net.ErrClosed):
			if last == nil {
				last = err
			}
			return netip.Addr{}, last
		default:
			last = err
			pause(ctx)
			continue
		}
		if seen, ok, err := readBinding(buf[:n], request.TransactionID); ok {
			return seen, err
		}
	}
}

// pause keeps an error that comes again and again from taking a core.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(stunPause):
	}
}

// readBinding returns the mapped address of an answer. It is not ok for
// what is no answer to the transaction.
func readBinding(packet []byte, transaction [stun.TransactionIDSize]byte) (seen netip.Addr, ok bool, err error) {
	reply := &stun.Message{Raw: packet}
	if reply.Decode() != nil || reply.TransactionID != transaction {
		return netip.Addr{}, false, nil
	}
	if reply.Type == stun.BindingError {
		var code stun.ErrorCodeAttribute
		_ = code.GetFrom(reply)
		return netip.Addr{}, true, fmt.Errorf("the server answered error %d", code.Code)
	}
	var mapped stun.XORMappedAddress
	value, _ := reply.Get(stun.AttrXORMappedAddress)
	// The library panics at less than two bytes, and makes up what an address lacks.
	if reply.Type != stun.BindingSuccess || len(value) < 8 || mapped.GetFrom(reply) != nil {
		return netip.Addr{}, true, errors.New("the server answered without a mapped address")
	}
	seen, _ = netip.AddrFromSlice(mapped.IP)
	return seen.Unmap(), true, nil
}

// check refuses an answer that would only lead clients astray.
func (q stunQuery) check(seen, bind netip.Addr) (netip.Addr, error) {
	if _, err := Parse(seen.String()); err != nil {
		return netip.Addr{}, err
	}
	if seen.BitLen() != bind.BitLen() {
		return netip.Addr{}, fmt.Errorf("the server answered with %s, of another family", seen)
	}
	return seen, nil
}
