package check

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/signal/client"
)

// tolerated is how far clocks may be apart: credentials and certificates live much longer.
const tolerated = 30 * time.Second

// site is the checks of a deployment by the URL of its page.
type site struct {
	plan
	o    *Options
	base *url.URL
	reach

	open, ice, ipv4, ipv6 *step // open and those behind it are what other checks look at.

	first, second *client.Client
	name          string // name is that of the room.
	told          told   // told is what is said there.
	greeting      greeting

	mu      sync.Mutex
	clients []*client.Client // clients are closed at the end.
}

// greeting is what a server says first.
type greeting struct {
	ICEServers []struct {
		URLs       []string `json:"urls"`
		Username   string   `json:"username"`
		Credential string   `json:"credential"`
	} `json:"iceServers"`
	TTL   int    `json:"ttl"`
	Token string `json:"resume_token"`
}

func newSite(o *Options, base *url.URL) *site {
	way := endpoint{over: overTCP, port: portOf(base)}
	if base.Scheme == "https" {
		way.over = overTLS
	}
	s := &site{o: o, base: base, told: newTold(), plan: plan{target: base.String()}}
	s.reach = reach{host: base.Hostname(), ways: []endpoint{way}, open: func(ctx context.Context, at netip.Addr, way endpoint) (*link, error) {
		return dial(ctx, base.Hostname(), at, way)
	}}
	name := s.add("name", "add an A record, and AAAA where there is IPv6, at who serves the domain", s.resolve(o))
	server := s.add("server", "start it, open the port in the firewall, or mend the URL", s.try, name)
	s.ipv4 = s.add("IPv4", "open the port there too, or take the A record away", s.family(false), server)
	s.ipv6 = s.add("IPv6", "open the port there too, or take the AAAA record away", s.family(true), server)
	const setClock = "set the clock of the machine that is wrong, and keep it so with NTP"
	clock := s.add("clock", setClock, s.clock, server)
	trusted := server
	if way.over == overTLS {
		trusted = s.add("certificate", "", s.certificates(o, overTLS), server).explainedBy(clock)
	}
	web := s.add("HTTP", "the proxy must pass requests on to --server-port of a node that runs", s.health, trusted)
	ready := s.add("ready", "the log of the node and its /ready have more", s.ready, web)
	s.open = s.add("WebSocket", "a proxy must pass Upgrade and Connection on to /ws", s.upgrade, trusted).explainedBy(web)
	s.ice = s.add("ICE servers", "set --turn-enabled, or name a server with --turn-url and its --turn-secret", s.servers, s.open)
	s.add("credentials", setClock, s.credentials, s.open).explainedBy(clock)
	room := s.add("room", "give all nodes behind the name the same Redis", s.meet, s.open).explainedBy(ready)
	s.add("resume", "give all nodes the same --session-secret, or the same Redis", s.comeBack, room)
	s.add("cluster", "give all nodes the same Redis (--redis-url)", s.cluster, room)
	return s
}

// to returns a way to dial one address, whatever the name says.
func to(addr netip.Addr) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(addr.String(), port))
	}
}

func (s *site) tls() *tls.Config { return &tls.Config{RootCAs: s.o.Roots, Time: s.o.now} }

// get asks the server, whose certificate must be good, for a path.
func (s *site) get(ctx context.Context, path string) (status int, body []byte, date time.Time, err error) {
	return s.ask(ctx, path, s.tls())
}

func (s *site) ask(ctx context.Context, path string, secure *tls.Config) (status int, body []byte, date time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	transport := &http.Transport{DialContext: to(s.good("")[0].addr), TLSClientConfig: secure, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base.String()+path, nil)
	if err != nil {
		return 0, nil, date, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, nil, date, errors.New(explain(err))
	}
	defer func() { _ = response.Body.Close() }()
	date, _ = http.ParseTime(response.Header.Get("Date"))
	body, err = io.ReadAll(io.LimitReader(response.Body, 4<<10))
	return response.StatusCode, body, date, err
}

func (s *site) health(ctx context.Context) (string, error) {
	status, _, _, err := s.get(ctx, "health")
	switch {
	case err != nil:
		return "", err
	case status == http.StatusNotFound:
		return "", untried("/health is not passed on")
	case status != http.StatusOK:
		return "", fmt.Errorf("/health: %d %s", status, http.StatusText(status))
	}
	return "", nil
}

// ready is the check whether the node takes users and misses nothing.
func (s *site) ready(ctx context.Context) (string, error) {
	status, body, _, err := s.get(ctx, "ready")
	var says struct {
		Reasons  map[string]string `json:"reasons"`
		Problems []string          `json:"problems"`
	}
	_ = json.Unmarshal(body, &says) // A proxy answers with anything.
	switch {
	case err != nil:
		return "", err
	case status == http.StatusNotFound:
		return "", untried("/ready is not passed on")
	case len(says.Reasons) > 0:
		return "", fmt.Errorf("takes no users: %v", says.Reasons)
	case status != http.StatusOK:
		return "", fmt.Errorf("/ready: %d %s", status, http.StatusText(status))
	case len(says.Problems) > 0:
		return "", errors.New(strings.Join(says.Problems, "; "))
	}
	return "", nil
}

// clock compares the server's clock with ours, by the date of an answer, of which nothing else counts: a certificate cannot be judged
// by a clock that is wrong. A proxy has a date of its own, see credentials.
func (s *site) clock(ctx context.Context) (string, error) {
	anyone := s.tls()
	anyone.InsecureSkipVerify = true
	_, _, date, err := s.ask(ctx, "health", anyone)
	if err != nil || date.IsZero() {
		return "", untried("the server does not say")
	}
	return s.agrees(date)
}

// credentials compares the clock of who made the credentials for TURN with ours.
func (s *site) credentials(context.Context) (detail string, err error) {
	for _, server := range s.greeting.ICEServers {
		if end := expiry(server.Username); err == nil && s.greeting.TTL > 0 && !end.IsZero() {
			detail, err = s.agrees(end.Add(-time.Duration(s.greeting.TTL) * time.Second))
		}
	}
	if detail == "" && err == nil {
		return "", untried("none says when it ends")
	}
	return detail, err
}

// agrees says whether a time at the server is now.
func (s *site) agrees(t time.Time) (string, error) {
	if apart := t.Sub(s.o.now()).Round(time.Second); apart.Abs() > tolerated {
		return "", fmt.Errorf("the server says %s, %v from the clock here", t.UTC().Format(time.DateTime), apart)
	}
	return fmt.Sprintf("within %v", tolerated), nil
}

// dialer opens WebSockets at one address.
func (s *site) dialer(addr netip.Addr) client.Dialer {
	d := client.Dialer{WebSocket: &websocket.Dialer{NetDialContext: to(addr), TLSClientConfig: s.tls(), HandshakeTimeout: patience}}
	if s.o.Token != "" {
		d.Tokens = client.Token(s.o.Token)
	}
	return d
}

func (s *site) header() http.Header {
	origin := s.o.Origin
	if origin == "" {
		origin = s.base.Scheme + "://" + s.base.Host
	}
	h := http.Header{"Origin": {origin}}
	if s.o.Cookie != "" {
		h.Set("Cookie", s.o.Cookie)
	}
	return h
}

// connect opens a WebSocket at an address and reads the greeting.
func (s *site) connect(ctx context.Context, addr netip.Addr) (*client.Client, client.Message, error) {
	c, err := s.dialer(addr).Dial(ctx, s.base.String()+"ws", s.header())
	if err != nil {
		return nil, client.Message{}, s.refusal(err)
	}
	s.keep(c)
	m, err := c.Next(ctx)
	if err == nil && m.Type != "stun_config" {
		err = fmt.Errorf("the first message is %q", m.Type)
	}
	if err != nil {
		return nil, m, faultf("the URL must be that of a signal server", "a WebSocket opens, but it does not greet as a signal server does: %s", explain(err))
	}
	return c, m, nil
}

// keep has a client closed at the end.
func (s *site) keep(c *client.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = append(s.clients, c)
}

// refusal says why there is no WebSocket.
func (s *site) refusal(err error) error {
	var status *client.StatusError
	switch {
	case errors.Is(err, client.ErrUnauthorized) && s.o.Token == "":
		return untried("the server wants a token: give --token, or --cookie")
	case !errors.As(err, &status):
		return errors.New(explain(err))
	}
	said := ""
	if line, _, _ := strings.Cut(status.Text, "\n"); line != "" && !strings.HasPrefix(line, "<") {
		said = ": " + line
	}
	switch status.Code {
	case http.StatusUnauthorized:
		return faultf("give a token that your backend has just signed, with the secret or key that the server knows", "the token is refused (401)%s", said)
	case http.StatusForbidden:
		if said != "" && !strings.Contains(said, "origin") {
			return faultf("look at what the backend in --auth-url answers", "the server does not let this client in (403)%s", said)
		}
		return faultf("add it to --allowed-origins; behind a TLS proxy name that in --trusted-proxies, so that https is believed",
			"the origin %s is refused (403)", s.header().Get("Origin"))
	case http.StatusTooManyRequests:
		return faultf("name the proxy in --trusted-proxies, or raise --address-connections", "too many WebSockets of one address (429)")
	case http.StatusServiceUnavailable:
		if said != "" && !strings.Contains(said, "can hold") && !strings.Contains(said, "memory") {
			return faultf("see what /ready names; with --auth-url, whether the backend answers", "the server takes nobody now (503)%s", said)
		}
		return faultf("raise --max-connections or --max-memory, or add a node", "the server is full (503)")
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return faultf("the proxy must pass requests on to --server-port of a node that runs", "the proxy has no server behind it (%s)", status.Status)
	}
	return fmt.Errorf("/ws answers %s instead of a WebSocket", status.Status)
}

// upgrade is the check whether a page may open a WebSocket.
func (s *site) upgrade(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, m, err := s.connect(ctx, s.good("")[0].addr)
	if err != nil {
		return "", err
	}
	s.first = c
	if err := m.Document(&s.greeting); err != nil {
		return "", err
	}
	return "origin " + s.header().Get("Origin"), nil
}

// servers is the check of what the server tells clients about TURN.
func (s *site) servers(context.Context) (string, error) {
	var names []string
	relays := false
	for _, server := range s.greeting.ICEServers {
		for _, text := range server.URLs {
			u, err := parseRelayURL(text)
			if err != nil {
				return "", err
			}
			relays = relays || u.relays && server.Credential != ""
			names = append(names, text)
		}
	}
	if !relays {
		return "", errors.New("clients are told of no TURN server: those behind firewalls cannot talk")
	}
	return strings.Join(names, " "), nil
}

// expiry reads until when a TURN-REST credential is good.
func expiry(username string) time.Time {
	digits, _, _ := strings.Cut(username, ":")
	seconds, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// finish ends what the checks have opened.
func (s *site) finish() {
	for _, c := range s.clients {
		_ = c.Close()
	}
	s.close()
}
