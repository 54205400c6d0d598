package signal

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"cline-meet/signal/signal/setting"
)

// limit names one of the limits, as metrics do: by its setting.
type limit int

const (
	noLimit limit = iota
	limitConnections
	limitAddressConnections
	limitAddressUpgrades
	limitAddressMessages
	limitAddressCredentials
	limitAddressRequests
	limitMessages
	limitMemory
	limitAuthRequests
	limits
)

var limitNames = [limits]string{"", "max-connections", "address-connections", "address-upgrade-rate", "address-message-rate",
	"address-credential-rate", "address-request-rate", "message-rate", "max-memory", "auth-requests"}

func (l limit) String() string { return limitNames[l] }

// limit returns how high a limit is.
func (c *Config) limit(l limit) float64 {
	switch l {
	case limitConnections:
		return float64(c.maxConns())
	case limitAddressConnections:
		return float64(c.AddrConns)
	case limitAddressUpgrades:
		return derived(c.AddrUpgrades, c.newcomers())
	case limitAddressMessages:
		return derived(c.AddrMessages, float64(c.AddrConns)*c.MessageRate)
	case limitAddressCredentials:
		return derived(c.AddrCredits, c.newcomers())
	case limitAddressRequests:
		return derived(c.AddrRequests, requestsEach*float64(c.AddrConns))
	case limitMessages:
		return c.MessageRate
	case limitMemory:
		return float64(c.limitMemory())
	case limitAuthRequests:
		return c.Auth.AtATime()
	}
	return 0
}

// derived returns what a number says that may follow from others.
func derived[N int | float64](given, otherwise N) N {
	if given == setting.Derived {
		return otherwise
	}
	return given
}

// fewestNewcomers is how many may come a second from an address that may hold few connections: these may be short.
const fewestNewcomers = 16

// newcomers is how many new connections a second of one address are enough for as many as it may hold.
func (c *Config) newcomers() float64 {
	if c.AddrConns == 0 {
		return 0
	}
	return max(fewestNewcomers, float64(c.AddrConns)/2)
}

// maxConns leaves half of the descriptors to relays, requests, the admin address and the shared state.
func (c *Config) maxConns() int { return derived(c.MaxConns, setting.Descriptors()/2) }

func (c *Config) addressLimits() addressLimits {
	return addressLimits{
		places:      c.AddrConns,
		upgrades:    newPace(c.limit(limitAddressUpgrades), addressBurst),
		messages:    newPace(c.limit(limitAddressMessages), max(addressBurst, float64(c.MessageBurst)/c.MessageRate)),
		credentials: newPace(c.limit(limitAddressCredentials), addressBurst),
		requests:    newPace(c.limit(limitAddressRequests), addressBurst),
		arrivals:    newPace(c.limit(limitAddressRequests)/requestsOfCaller, addressBurst),
	}
}

// refusals are how upgrades are refused for a limit: the reason as the metric has it, the status and the text.
var refusals = map[limit]struct {
	reason string
	status int
	text   string
}{
	limitConnections:        {"full", http.StatusServiceUnavailable, "the server has as many connections as it can hold"},
	limitMemory:             {"memory", http.StatusServiceUnavailable, "the server is short of memory"},
	limitAddressConnections: {"address_limit", http.StatusTooManyRequests, "too many connections from your address"},
	limitAddressUpgrades:    {"address_rate", http.StatusTooManyRequests, "too many new connections from your address"},
}

// connect takes what a WebSocket takes of the limits. It answers the request and returns nil when one is reached.
func (s *Server) connect(w http.ResponseWriter, who clientID, isBack bool) *address {
	var from *address
	reached, wait := limitMemory, retryPlace
	if isBack || !s.isCrowded() {
		from, reached, wait = s.addrs.connect(who.prefix(), isBack)
	}
	if reached == noLimit {
		return from
	}
	s.metrics.reached(reached)
	w.Header().Set("Retry-After", inSeconds(wait))
	refusal := refusals[reached]
	s.refuse(w, refusal.reason, refusal.status, refusal.text)
	return nil
}

// inSeconds is a time as HTTP's Retry-After has it, rounded up.
func inSeconds(d time.Duration) string { return strconv.Itoa(int(math.Ceil(d.Seconds()))) }

// isBack reports whether a client shows the token of a participant that is here.
func (s *Server) isBack(session, token string) bool {
	if token == "" {
		return false
	}
	t, err := s.readToken(session, token)
	if err != nil {
		return false
	}
	p := s.participant(t.User)
	return p != nil && (p.epoch == t.Epoch && !p.isUsedUp(t.Greeting) || p.mayHave(t.Epoch))
}

// vacate gives the place of a connection to others.
func (s *Server) vacate(c *conn) {
	s.open.Add(-1)
	s.addrs.disconnect(c.from)
	s.reading.Done()
}

// vacate gives the place back that a participant, which is the caller's, holds without a conn, if it does.
func (p *participant) vacate() {
	if p.home != nil {
		p.srv.addrs.release(p.home)
		p.home = nil
	}
}

// mayMint takes a credential off the rate of an address, or returns how long to wait.
func (s *Server) mayMint(a *address) (wait time.Duration) {
	if wait = a.credentials.take(s.addrs.limits.credentials, uptime()); wait > 0 {
		s.metrics.reached(limitAddressCredentials)
	}
	return wait
}

// mayMessage takes a message off the rate of an address, or returns how long to wait.
func (s *Server) mayMessage(a *address, now time.Duration) (wait time.Duration) {
	if wait = a.messages.take(s.addrs.limits.messages, now); wait > 0 {
		s.metrics.reached(limitAddressMessages)
	}
	return wait
}

// charge takes a control frame off the rates as if it were a message. There is no answer to tell that it came too soon, but
// without end it closes the connection.
func (c *conn) charge() {
	if c.isClosing() {
		c.hasty = true
	} else if c.throttle() > 0 && !c.faults.AllowN(time.Now(), faultOf(codeBadRequest)) {
		c.participant.expel(closePolicy, "too many control frames")
	}
}

// expulsion is how many new connections it costs an address that a client of it was expelled: what each may say before that would come
// to much if it were back at once.
const expulsion = 16

// expel ends a participant whose client does not stop. It is not waited for, since it goes on to send.
func (p *participant) expel(code closeCode, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil && !p.over {
		p.conn.cut(code, why, lastWords)
		p.conn.from.upgrades.charge(p.srv.addrs.limits.upgrades, expulsion, uptime())
	}
	p.over = true
}
