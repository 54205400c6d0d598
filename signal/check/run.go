package check

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"cline-meet/signal/turnsrv/turnclient"
)

// Options are what checks need to know of who is to be let in.
type Options struct {
	User, Password string // User and Password are a TURN credential.
	Secret         string // Secret mints one instead.
	Origin         string // Origin is that of the page, the site's own when empty.
	Token          string // Token is what a site with authentication wants.
	Cookie         string
	Room           string         // Room is the one to join, a fresh one when empty.
	Timeout        time.Duration  // Timeout bounds all checks together.
	Roots          *x509.CertPool // Roots are the authorities that are trusted, nil for the system's.

	lookup func(ctx context.Context, host string) ([]netip.Addr, error) // Tests have names of their own,
	now    func() time.Time                                             // and a clock.
}

// credential returns what the TURN servers that are named take.
func (o *Options) credential() *turnclient.Credential {
	switch {
	case o.User != "" && o.Password != "":
		return &turnclient.Credential{Username: o.User, Password: o.Password}
	case o.Secret != "":
		user := o.User
		if user == "" {
			user = "check"
		}
		c := turnclient.Mint(o.Secret, user, o.now(), time.Hour)
		return &c
	}
	return nil
}

func lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// Run checks targets at the same time and returns the results of the first one first.
func Run(ctx context.Context, o Options, targets ...string) ([]Result, error) {
	if o.now == nil {
		o.now = time.Now
	}
	if o.lookup == nil {
		o.lookup = lookUp
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	var runs []func() []Result
	for _, text := range targets {
		run, err := o.prepare(ctx, text)
		if err != nil {
			return nil, err
		}
		runs = append(runs, run)
	}
	results := make([][]Result, len(runs))
	var running sync.WaitGroup
	for i, run := range runs {
		running.Go(func() { results[i] = run() })
	}
	running.Wait()
	return slices.Concat(results...), nil
}

// prepare reads a target and returns what checks it.
func (o *Options) prepare(ctx context.Context, text string) (func() []Result, error) {
	if isRelayURL(text) {
		u, err := parseRelayURL(text)
		return func() []Result { return o.checkRelays(ctx, server{u, o.credential()}, nil) }, err
	}
	base, err := parseSite(text)
	return func() []Result { return o.checkSite(ctx, newSite(o, base)) }, err
}

// checkSite checks a site, and the servers that it names as soon as it has.
func (o *Options) checkSite(ctx context.Context, s *site) []Result {
	defer s.finish()
	s.start(ctx)
	var servers []server
	if s.ice.mark() == Good {
		servers = s.named()
	}
	results := make([][]Result, len(servers))
	var running sync.WaitGroup
	for i, server := range servers {
		running.Go(func() { results[i] = o.checkRelays(ctx, server, s) })
	}
	running.Wait()
	return append(s.wait(), slices.Concat(results...)...)
}

func (o *Options) checkRelays(ctx context.Context, server server, from *site) []Result {
	r := newRelays(o, server, from)
	defer r.finish()
	r.start(ctx)
	return r.wait()
}

// named are the servers that clients are told of.
func (s *site) named() (servers []server) {
	for _, told := range s.greeting.ICEServers {
		for _, text := range told.URLs {
			if u, err := parseRelayURL(text); err == nil { // What is none was marked.
				servers = with(servers, u, &turnclient.Credential{Username: told.Username, Password: told.Credential})
			}
		}
	}
	return servers
}

// with adds a URL to the server of its host. The credential is for relays.
func with(servers []server, u relayURL, who *turnclient.Credential) []server {
	i := slices.IndexFunc(servers, func(other server) bool { return other.host == u.host })
	if i < 0 {
		i = len(servers)
		servers = append(servers, server{relayURL: relayURL{host: u.host}})
	}
	servers[i].take(u)
	if u.relays {
		servers[i].who = who
	}
	return servers
}

// take adds the ways of another URL for the same host. A way that somebody has promised is not optional.
func (s *server) take(u relayURL) {
	s.relays = s.relays || u.relays
	for _, way := range u.endpoints {
		i := slices.IndexFunc(s.endpoints, func(e endpoint) bool { return e.over == way.over && e.port == way.port })
		if i < 0 {
			s.endpoints = append(s.endpoints, way)
			continue
		}
		s.endpoints[i].optional = s.endpoints[i].optional && way.optional
	}
}

// String is how the server is called in the report.
func (s server) String() string {
	scheme := "stun:"
	if s.relays {
		scheme = "turn:"
	}
	if strings.Contains(s.host, ":") {
		return fmt.Sprintf("%s[%s]", scheme, s.host)
	}
	return scheme + s.host
}
