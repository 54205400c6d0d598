package check

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"cline-meet/signal/signal/setting"
	"cline-meet/signal/turnsrv/turnclient"
)

// selfTime bounds what a node tries of itself.
const selfTime = 4 * patience

// Self tries, beside whatever else goes on, the STUN and TURN servers that a node tells every client of, and logs once what
// clients would trip over. Relay is the address at which its relays are seen. The returned function ends it.
func Self(log *slog.Logger, urls []string, relay netip.Addr) (stop func()) {
	ctx, cancel := context.WithTimeout(context.Background(), selfTime)
	o := Options{now: time.Now, lookup: lookUp}
	var running sync.WaitGroup
	for _, s := range group(urls) {
		running.Go(func() {
			if notes := o.examine(ctx, s, relay); ctx.Err() == nil {
				notes.Log(log)
			}
		})
	}
	return func() { cancel(); running.Wait() }
}

// group puts the URLs of one host together.
func group(urls []string) (servers []server) {
	for _, text := range urls {
		if u, err := parseRelayURL(text); err == nil {
			servers = with(servers, u, nil)
		}
	}
	return servers
}

// examine looks at one server from the machine that names it. What does not answer here may do so elsewhere: few NATs lead a
// packet back to where it came from.
func (o *Options) examine(ctx context.Context, s server, relay netip.Addr) (notes setting.Notes) {
	r := reach{host: s.host, ways: s.endpoints, open: func(ctx context.Context, at netip.Addr, way endpoint) (*link, error) {
		return dialSTUN(ctx, s.host, at, way, turnclient.Credential{})
	}}
	defer r.close()
	if _, err := r.resolve(o)(ctx); err != nil {
		var missing *net.DNSError
		if errors.As(err, &missing) && !missing.IsNotFound {
			notes.Tellf("own_name_unknown", "clients are told of %s: %v", s.host, err)
		} else {
			notes.Warnf("own_name_unresolved", "clients are told of %s, which has no address: add it to DNS, or mend --turn-public-host", s.host)
		}
		return notes
	}
	if _, err := netip.ParseAddr(s.host); err != nil && relay.IsValid() && !special(relay) && !slices.Contains(r.addrs, relay) {
		notes.Tellf("own_name_elsewhere", "%s leads to %s, and relays are at %s: that is right if a balancer is in between", s.host, join(r.addrs), relay)
	}
	if _, err := r.try(ctx); err != nil {
		notes.Tellf("own_turn_unanswered", "%s does not answer this machine (%v): that is right behind a NAT; signal check %s, from elsewhere, tells", s, err, s)
		return notes
	}
	for _, way := range r.ways {
		if _, err := r.by(way)(ctx); err != nil && !errors.As(err, new(untried)) {
			notes.Tellf("own_turn_unanswered", "%s does not answer this machine (%v): signal check %s, from elsewhere, tells more", s, err, s)
		}
	}
	return notes
}
