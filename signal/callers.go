package signal

import (
	"container/list"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cline-meet/signal/signal/setting"
)

// requestsEach is how many connections without a WebSocket one client address may have, as a multiple of those with one: a browser opens
// six, and keeps them for a while.
const requestsEach = 8

// requestsOfCaller is how many requests a connection has on the average, at least, of clients that ask for many.
const requestsOfCaller = 4

// Connections without a WebSocket beyond these numbers make room for new ones: beyond the first those that are older than a request
// takes, beyond the second the oldest of all. Descriptors may bound both to less.
const (
	manyCallers = 4096
	maxCallers  = 4 * manyCallers
	requestTime = time.Second
)

// callers bounds the connections that are no WebSocket, or not yet. Each holds a descriptor and a goroutine, if only to wait for a
// request that comes a byte at a time. An address with too many gets no more. When there are many in all, the oldest makes room, so
// that a request which is sent at once is answered. Those of trusted proxies do not count.
//
// What they cost is bounded as well: a request that comes faster than its address may ask waits for its turn, and the client with it,
// who cannot send the next one on that connection; so nothing is done for it meanwhile, and to come again is of no use. A connection that
// comes too fast is closed before anything is read, since TLS would cost most.
type callers struct {
	// Fixed after construction.
	perAddress int // 0 for any number
	many, most int
	trusted    *trusted
	addrs      *addresses
	cut        *prometheus.CounterVec // by reason

	mu     sync.Mutex
	places map[netip.Prefix]int
	known  map[net.Conn]*list.Element
	order  list.List // of caller, oldest first
}

type caller struct {
	conn net.Conn
	from netip.Prefix
	came time.Duration
}

// newCallers keeps a tenth of the descriptors for requests.
func newCallers(cfg *Config, trusted *trusted, addrs *addresses, cut *prometheus.CounterVec) *callers {
	v := &callers{perAddress: requestsEach * cfg.AddrConns, many: manyCallers, most: maxCallers, trusted: trusted, addrs: addrs, cut: cut,
		places: map[netip.Prefix]int{}, known: map[net.Conn]*list.Element{}}
	if descriptors := setting.Descriptors(); descriptors > 0 {
		v.many, v.most = min(v.many, max(1, descriptors/20)), min(v.most, max(1, descriptors/10))
	}
	return v
}

// CountCaller follows the life of a connection before the server has it, as http.Server.ConnState. It closes what is too much.
func (s *Server) CountCaller(conn net.Conn, state http.ConnState) { s.callers.note(conn, state) }

// note follows the life of a connection, for an http.Server.
func (v *callers) note(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		v.arrive(conn)
	case http.StateHijacked, http.StateClosed:
		v.leave(conn)
	}
}

func (v *callers) arrive(conn net.Conn) {
	ap, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return
	}
	who := clientID{addr: ap.Addr().Unmap().WithZone("")}
	if contains(*v.trusted.proxies.Load(), who.addr) {
		return
	}
	now := uptime()
	pushed, reason := conn, "rate"
	if v.addrs.of(who.prefix()).arrivals.take(v.addrs.limits.arrivals, now) == 0 {
		pushed, reason = v.add(caller{conn, who.prefix(), now})
	}
	if pushed != nil {
		v.cut.WithLabelValues(reason).Inc()
		_ = pushed.Close()
	}
}

// paced has requests wait for their turn.
func (s *Server) paced(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.awaitTurn(r) {
			h.ServeHTTP(w, r)
		}
	})
}

// awaitTurn waits as long as the address of a request has asked for too much. It reports false when there is nobody to answer any more.
func (s *Server) awaitTurn(r *http.Request) bool {
	from := s.addrs.of(s.identify(r).prefix())
	wait := from.requests.charge(s.addrs.limits.requests, 1, uptime())
	if wait == 0 {
		return true
	}
	s.metrics.reached(limitAddressRequests)
	turn := time.NewTimer(wait)
	defer turn.Stop()
	select {
	case <-turn.C:
		return true
	case <-r.Context().Done():
	case <-s.ctx.Done():
	}
	return false
}

// add takes a caller in and returns the connection that has to go, if any, and why.
func (v *callers) add(who caller) (pushed net.Conn, reason string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.perAddress > 0 && v.places[who.from] >= v.perAddress {
		return who.conn, "address"
	}
	if n := v.order.Len(); n >= v.many {
		if oldest := v.order.Front().Value.(caller); n >= v.most || who.came-oldest.came > requestTime {
			pushed, reason = oldest.conn, "total"
			v.leaveLocked(pushed)
		}
	}
	v.places[who.from]++
	v.known[who.conn] = v.order.PushBack(who)
	return pushed, reason
}

func (v *callers) leave(conn net.Conn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.leaveLocked(conn)
}

// leaveLocked forgets a connection, known or not.
func (v *callers) leaveLocked(conn net.Conn) {
	at := v.known[conn]
	if at == nil {
		return
	}
	delete(v.known, conn)
	from := v.order.Remove(at).(caller).from
	if v.places[from]--; v.places[from] == 0 {
		delete(v.places, from)
	}
}

// count returns how many there are.
func (v *callers) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.order.Len()
}
