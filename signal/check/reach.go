package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long one thing may take over a network that is any good.
const patience = 2500 * time.Millisecond

// attempt is a try to reach one address of a server in one way.
type attempt struct {
	addr netip.Addr
	way  endpoint
	conn *link // conn is nil when it failed.
	err  error
}

// untriable says that the fault lies with the network of the one who checks.
func (a *attempt) untriable() bool {
	return errors.Is(a.err, syscall.ENETUNREACH) || errors.Is(a.err, syscall.EADDRNOTAVAIL) || errors.Is(a.err, syscall.EAFNOSUPPORT)
}

// reach tries all ways to all addresses of a server at once. What is wrong it finds from how the failures lie: nothing
// works, or nothing at one address, or one way.
type reach struct {
	host     string
	ways     []endpoint
	open     func(ctx context.Context, at netip.Addr, way endpoint) (*link, error)
	addrs    []netip.Addr
	attempts []*attempt
}

// resolve is the check of the name.
func (r *reach) resolve(o *Options) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		if addr, err := netip.ParseAddr(r.host); err == nil {
			r.addrs = []netip.Addr{addr.Unmap()}
			return "an address needs none", nil
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		found, err := o.lookup(ctx, r.host)
		var missing *net.DNSError
		switch {
		case errors.As(err, &missing) && missing.IsNotFound:
			return "", fmt.Errorf("%s has no address", r.host)
		case err != nil:
			return "", fmt.Errorf("looking up %s: %w", r.host, err)
		}
		for _, addr := range found {
			if addr = addr.Unmap(); !slices.Contains(r.addrs, addr) {
				r.addrs = append(r.addrs, addr)
			}
		}
		return join(r.addrs), nil
	}
}

func join[T fmt.Stringer](things []T) string {
	var texts []string
	for _, t := range things {
		texts = append(texts, t.String())
	}
	return strings.Join(texts, ", ")
}

// try is the check whether the server is there at all.
func (r *reach) try(ctx context.Context) (string, error) {
	var running sync.WaitGroup
	for _, addr := range r.addrs {
		for _, way := range r.ways {
			a := &attempt{addr: addr, way: way}
			r.attempts = append(r.attempts, a)
			running.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, patience)
				defer cancel()
				a.conn, a.err = r.open(ctx, addr, way)
			})
		}
	}
	running.Wait()
	if slices.ContainsFunc(r.attempts, func(a *attempt) bool { return a.err == nil }) {
		return "", nil
	}
	if !slices.ContainsFunc(r.attempts, func(a *attempt) bool { return !a.untriable() }) {
		return "", untried("this network has no way to " + join(r.addrs))
	}
	var reasons []string
	for _, a := range r.attempts {
		if !a.way.optional && !a.untriable() {
			reasons = append(reasons, fmt.Sprintf("%s: %s", a.where(r), explain(a.err)))
		}
	}
	return "", errors.New(strings.Join(reasons, "; "))
}

func (a *attempt) where(r *reach) string {
	if len(r.addrs) == 1 {
		return a.way.String()
	}
	return a.addr.String() + " " + a.way.String()
}

// silent says whether no way leads to an address.
func (r *reach) silent(addr netip.Addr) bool {
	return !slices.ContainsFunc(r.attempts, func(a *attempt) bool { return a.addr == addr && a.err == nil })
}

// family is the check of one address family.
func (r *reach) family(v6 bool) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		var good []netip.Addr
		var bad []string
		there := false
		for _, a := range r.attempts {
			if a.addr.Is6() != v6 || slices.Contains(good, a.addr) {
				continue
			}
			switch there = true; {
			case !r.silent(a.addr):
				good = append(good, a.addr)
			case a.untriable():
				return "", untried("this network has none")
			case !a.way.optional:
				bad = append(bad, fmt.Sprintf("%s %s: %s", a.addr, a.way, explain(a.err)))
			}
		}
		switch {
		case !there:
			return "", untried("the server has none")
		case len(bad) > 0:
			return "", errors.New(strings.Join(bad, "; "))
		}
		return join(good), nil
	}
}

// by is the check of one way, at those addresses that answer at all.
func (r *reach) by(way endpoint) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		var details []string
		for _, a := range r.attempts {
			if a.way != way || r.silent(a.addr) {
				continue
			}
			if a.err != nil {
				if way.optional {
					return "", untried("not offered")
				}
				return "", fmt.Errorf("%s: %s", a.where(r), explain(a.err))
			}
			details = append(details, a.conn.detail)
		}
		slices.Sort(details)
		return strings.Join(append([]string{fmt.Sprintf("port %d", way.port)}, slices.Compact(details)...), ", "), nil
	}
}

// good returns the attempts of a way that succeeded.
func (r *reach) good(over string) (found []*attempt) {
	for _, a := range r.attempts {
		if a.err == nil && (over == "" || a.way.over == over) {
			found = append(found, a)
		}
	}
	return found
}

// close closes what the attempts opened.
func (r *reach) close() {
	for _, a := range r.attempts {
		if a.conn != nil {
			a.conn.close()
		}
	}
}

// explain says in words what a network error means.
func explain(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer"
	}
	return err.Error()
}
