// Package certificate has the certificates that a node serves with, and keeps them current while they are in use.
package certificate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cline-meet/signal/signal/setting"
)

// Set has the certificates of a node by what they serve, which may be the same one. Any goroutine may use it.
type Set struct {
	https, turn *Files // nil for plain HTTP, and for TURN without TLS
}

// Load reads the files. Its error names the flags.
func Load(c Config, log *slog.Logger) (*Set, error) {
	s := new(Set)
	var err error
	if c.Cert != "" {
		if s.https, err = load("tls", c.Cert, c.Key, log); err != nil {
			return nil, err
		}
	}
	if s.turn = s.https; c.TURNCert != "" {
		s.turn, err = load("turn-tls", c.TURNCert, c.TURNKey, log)
	}
	return s, err
}

// HTTPS returns the config of what browsers connect to, nil for plain HTTP.
func (s *Set) HTTPS() *tls.Config { return s.https.tlsConfig() }

// TURN returns the config of TURN over TLS and DTLS, nil without.
func (s *Set) TURN() *tls.Config { return s.turn.tlsConfig() }

// Covers says whether clients that connect to TURN by the name, or address, of a host accept the certificate.
func (s *Set) Covers(host string) bool {
	return s.turn != nil && s.turn.leaf().VerifyHostname(host) == nil
}

// KeepCurrent watches the files, and reads them again on SIGHUP, until the returned function is called.
func (s *Set) KeepCurrent() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	for _, u := range s.uses() {
		watching.Go(func() { u.files.keepCurrent(ctx) })
	}
	return func() {
		cancel()
		watching.Wait()
	}
}

// use is a certificate with what it serves.
type use struct {
	files  *Files
	serves string
}

// uses returns every certificate once.
func (s *Set) uses() []use {
	all := []use{{s.https, "https"}, {s.turn, "turn"}}
	if s.https == s.turn {
		all = []use{{s.https, "https,turn"}}
	}
	return slices.DeleteFunc(all, func(u use) bool { return u.files == nil })
}

// soon is how long before its end a certificate should have been renewed.
const soon = 14 * 24 * time.Hour

// Notes tell what is wrong with the certificates at a time.
func (s *Set) Notes(now time.Time) setting.Notes {
	var n setting.Notes
	for _, u := range s.uses() {
		leaf, of := u.files.leaf(), u.files.origin()
		ends := leaf.NotAfter.UTC().Format(time.DateTime)
		switch {
		case now.After(leaf.NotAfter):
			n.Warnf("certificate_expired", "the certificate in %s has ended at %s: browsers refuse it, renew it", of, ends)
		case now.Before(leaf.NotBefore):
			n.Warnf("certificate_not_yet_valid", "the certificate in %s begins at %s: is the clock of this machine right?",
				of, leaf.NotBefore.UTC().Format(time.DateTime))
		case leaf.NotAfter.Sub(now) < soon && leaf.NotAfter.Sub(leaf.NotBefore) > 2*soon:
			n.Warnf("certificate_ends_soon", "the certificate in %s ends at %s: renew it", of, ends)
		}
	}
	return n
}

// TURNNotes tell who is not told of TURN over TLS: host is what its URLs name, empty for whatever name clients come by.
func (s *Set) TURNNotes(host string) setting.Notes {
	var n setting.Notes
	switch {
	case s.turn == nil || host != "" && s.Covers(host):
	case host == "":
		n.Tellf("turns_by_name", "turns: is advertised to clients that came by %s: set --turn-public-host, and it is to all", names(s.turn.leaf()))
	default:
		n.Warnf("certificate_for_other_name", "the certificate in %s is not for --turn-public-host %s, but for %s: turns: is not advertised, since browsers would refuse it",
			s.turn.origin(), host, names(s.turn.leaf()))
	}
	return n
}

// Report adds a line for every certificate.
func (s *Set) Report(r *setting.Report) {
	for _, u := range s.uses() {
		r.Addf("TLS", "%s for %s, until %s, serves %s", u.files.certFile, names(u.files.leaf()), u.files.leaf().NotAfter.UTC().Format(time.DateTime), u.serves)
	}
}

// names are those that a certificate is for.
func names(leaf *x509.Certificate) string {
	all := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return "no name"
	}
	return strings.Join(all, ", ")
}

// expiry describes the one metric there is.
var expiry = prometheus.NewDesc("signal_certificate_expiry_timestamp_seconds", "When a certificate ends.", []string{"serves"}, nil)

// Describe implements prometheus.Collector.
func (s *Set) Describe(d chan<- *prometheus.Desc) { d <- expiry }

// Collect implements prometheus.Collector.
func (s *Set) Collect(m chan<- prometheus.Metric) {
	for _, u := range s.uses() {
		m <- prometheus.MustNewConstMetric(expiry, prometheus.GaugeValue, float64(u.files.leaf().NotAfter.Unix()), u.serves)
	}
}

// origin says which setting a certificate comes from.
func (f *Files) origin() string { return fmt.Sprintf("--%s-cert %s", f.flags, f.certFile) }
