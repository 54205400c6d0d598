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
type callers struct {
	// Fixed after construction.
	perAddress int // 0 for any number
	many, most int
	trusted    *trusted
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
func newCallers(cfg *Config, trusted *trusted, cut *prometheus.CounterVec) *callers {
	v := &callers{perAddress: requestsEach * cfg.AddrConns, many: manyCallers, most: maxCallers, trusted: trusted, cut: cut,
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
	if pushed, reason := v.add(caller{conn, who.prefix(), uptime()}); pushed != nil {
		v.cut.WithLabelValues(reason).Inc()
		_ = pushed.Close()
	}
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
