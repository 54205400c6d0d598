// Package certificate has the certificates that a node serves with, from files or from an authority that it asks by
// ACME, and keeps them current while they are in use.
package certificate

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/prometheus/client_golang/prometheus"

	"cline-meet/signal/signal/setting"
)

// Set has the certificates of a node by what they serve, which may be the same ones. Any goroutine may use it, but for
// Open, Close and KeepCurrent.
type Set struct {
	https, turn source // nil for plain HTTP, and for TURN without TLS
	managed     *managed
	plain       *plain // plain HTTP beside HTTPS
	config      Config
	turns       *turns
}

// source is where certificates come from.
type source interface {
	// get chooses one for a handshake, TLS' or DTLS'.
	get(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// held are those that are in use.
	held() []held
	// keepCurrent returns when ctx ends.
	keepCurrent(ctx context.Context)
}

// held is a certificate that is in use.
type held struct {
	name   string            // name is the first one that it is for
	leaf   *x509.Certificate // leaf is nil while there is none yet
	origin string            // origin is the setting that it comes from
	renews bool              // renews says that the node asks for the next one by itself.
}

// Load reads the files. Its error names the flags.
func Load(c Config, log *slog.Logger) (*Set, error) {
	s := &Set{config: c, plain: newPlain(c, log), turns: newTurns()}
	var err error
	switch {
	case len(c.Certs) > 0:
		s.https, err = loadAll("tls", c.Certs, c.Keys, log)
	case c.automatic():
		s.managed, err = newManaged(c, log)
		s.https = s.managed
	}
	if err != nil {
		return nil, err
	}
	if s.turn = s.https; len(c.TURNCerts) > 0 {
		s.turn, err = loadAll("turn-tls", c.TURNCerts, c.TURNKeys, log)
	}
	return s, err
}

// HTTPS returns the config of what browsers connect to, nil for plain HTTP. What it adds to the protocols must stay:
// an authority comes by it.
func (s *Set) HTTPS() *tls.Config {
	cfg := s.serving(s.https)
	if s.managed != nil {
		cfg.NextProtos = []string{acmez.ACMETLS1Protocol}
	}
	return cfg
}

// TURN returns the config of TURN over TLS and DTLS, nil without.
func (s *Set) TURN() *tls.Config { return s.serving(s.turn) }

func (s *Set) serving(of source) *tls.Config {
	if of == nil {
		return nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: s.turns.begin, GetCertificate: s.turns.find(of.get)}
}

// Covers says whether clients that connect to TURN by the name, or address, of a host accept the certificate.
func (s *Set) Covers(host string) bool {
	return s.turn != nil && slices.ContainsFunc(s.turn.held(), func(h held) bool {
		return h.leaf != nil && h.leaf.VerifyHostname(host) == nil
	})
}

// use is a source with what it serves.
type use struct {
	source
	serves string
}

// uses returns every source once.
func (s *Set) uses() []use {
	all := []use{{s.https, "https"}, {s.turn, "turn"}}
	if s.https == s.turn {
		all = []use{{s.https, "https,turn"}}
	}
	return slices.DeleteFunc(all, func(u use) bool { return u.source == nil })
}

// Node is what has the certificates.
type Node struct {
	Hosts  []string // Hosts are the addresses that it binds to, at least one.
	Port   int      // Port is that of HTTPS.
	Shared Vault    // Shared is where nodes keep certificates for each other, or nil.
}

// Open binds the port of plain HTTP and finds the place where certificates are kept. Nothing is asked for yet.
func (s *Set) Open(n Node) error {
	if err := s.plain.listen(n.Hosts, s.managed == nil || s.config.HTTPPort != derivedHTTPPort); err != nil {
		return err
	}
	if s.managed != nil {
		if err := s.managed.open(n, s.plain); err != nil {
			s.Close()
			return err
		}
	}
	s.plain.prepare(n.Port, s.managed)
	return nil
}

// Close gives back what Open has taken, of a node that comes to nothing.
func (s *Set) Close() {
	if s.managed != nil && s.managed.cache != nil {
		s.managed.cache.Stop()
	}
	s.plain.close()
}

// KeepCurrent keeps all certificates current, and asks for those that are not there, until the returned function is
// called, which closes as well.
func (s *Set) KeepCurrent() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, u := range s.uses() {
		running.Go(func() { u.keepCurrent(ctx) })
	}
	running.Go(s.plain.serve)
	return func() {
		cancel()
		s.Close()
		running.Wait()
	}
}

// soon is how long before its end a certificate should have been renewed, and late how long if it does not live for twice
// as long.
const (
	soon = 14 * 24 * time.Hour
	late = 24 * time.Hour
)

// Notes tell what is wrong with the certificates at a time.
func (s *Set) Notes(now time.Time) setting.Notes {
	var n setting.Notes
	for _, u := range s.uses() {
		for _, h := range u.held() {
			h.note(&n, now)
		}
	}
	s.plain.note(&n)
	if s.managed != nil && s.config.OpenSecret && s.config.Storage == "" {
		n.Warnf("certificate_keys_readable", "who reads Redis reads the keys of certificates: they are encrypted with the session secret, which is there, too; set --session-secret")
	}
	return n
}

func (h held) note(n *setting.Notes, now time.Time) {
	if h.leaf == nil {
		n.Tellf("certificate_missing", "there is no certificate of %s yet: it is asked for", h.origin)
		return
	}
	ends := h.leaf.NotAfter.UTC().Format(time.DateTime)
	switch {
	case now.After(h.leaf.NotAfter):
		n.Warnf("certificate_expired", "the certificate in %s has ended at %s: browsers refuse it, renew it", h.origin, ends)
	case now.Before(h.leaf.NotBefore):
		n.Warnf("certificate_not_yet_valid", "the certificate in %s begins at %s: is the clock of this machine right?",
			h.origin, h.leaf.NotBefore.UTC().Format(time.DateTime))
	case h.leaf.NotAfter.Sub(now) <= h.margin():
		n.Warnf("certificate_ends_soon", "the certificate in %s ends at %s: renew it", h.origin, ends)
	}
}

// margin is how long before its end a certificate is noted. One that the node renews by itself is when the alert fires.
func (h held) margin() time.Duration {
	life := h.leaf.NotAfter.Sub(h.leaf.NotBefore)
	switch {
	case h.renews:
		return min(soon, life/9)
	case life > 2*soon:
		return soon
	}
	return late
}

// Problems tell users of /ready what is wrong with the certificates now.
func (s *Set) Problems() []string {
	var out []string
	now := time.Now()
	for _, u := range s.uses() {
		for _, h := range u.held() {
			switch {
			case h.leaf == nil:
				out = append(out, "certificate of "+h.name+": there is none yet")
			case now.After(h.leaf.NotAfter):
				out = append(out, "certificate of "+h.name+": it has ended")
			}
		}
	}
	return out
}

// TURNNotes tell who is not told of TURN over TLS: host is what its URLs name, empty for whatever name clients come by.
func (s *Set) TURNNotes(host string) setting.Notes {
	var n setting.Notes
	switch {
	case s.turn == nil || host != "" && s.Covers(host):
	case host == "":
		n.Tellf("turns_by_name", "turns: is advertised to clients that came by %s: set --turn-public-host, and it is to all", s.turnNames())
	case s.turnNames() != "":
		n.Warnf("certificate_for_other_name", "the certificate in %s is not for --turn-public-host %s, but for %s: turns: is not advertised, since browsers would refuse it",
			s.turnOrigins(), host, s.turnNames())
	}
	return n
}

// turnNames are those that the certificates of TURN are for.
func (s *Set) turnNames() string {
	var all []string
	for _, h := range s.turn.held() {
		if h.leaf != nil {
			all = append(all, names(h.leaf))
		}
	}
	return strings.Join(all, ", ")
}

// turnOrigins are the settings that they come from.
func (s *Set) turnOrigins() string {
	var all []string
	for _, h := range s.turn.held() {
		all = append(all, h.origin)
	}
	return strings.Join(all, " or ")
}

// Report adds a line for every certificate.
func (s *Set) Report(r *setting.Report) {
	for _, u := range s.uses() {
		for _, h := range u.held() {
			if h.leaf != nil {
				r.Addf("TLS", "%s for %s, until %s, serves %s", h.origin, names(h.leaf), h.leaf.NotAfter.UTC().Format(time.DateTime), u.serves)
			} else {
				r.Addf("TLS", "%s, by ACME of %s, serves %s", h.origin, s.managed.directoryURL(), u.serves)
			}
		}
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

// What is known of each certificate. How long one is to have still depends on how long it lives.
var (
	labels = []string{"serves", "name"}
	begin  = prometheus.NewDesc("signal_certificate_start_timestamp_seconds", "When a certificate began, 0 while there is none yet.", labels, nil)
	expiry = prometheus.NewDesc("signal_certificate_expiry_timestamp_seconds", "When a certificate ends, 0 while there is none yet.", labels, nil)
)

// Describe implements prometheus.Collector.
func (s *Set) Describe(d chan<- *prometheus.Desc) { d <- begin; d <- expiry }

// Collect implements prometheus.Collector.
func (s *Set) Collect(m chan<- prometheus.Metric) {
	for _, u := range s.uses() {
		for _, h := range firstToEnd(u.held()) {
			began, ends := h.life()
			m <- prometheus.MustNewConstMetric(begin, prometheus.GaugeValue, began, u.serves, h.name)
			m <- prometheus.MustNewConstMetric(expiry, prometheus.GaugeValue, ends, u.serves, h.name)
		}
	}
}

// firstToEnd keeps one certificate of each name. There may be several, such as one by RSA for old clients.
func firstToEnd(all []held) []held {
	slices.SortStableFunc(all, func(a, b held) int {
		_, endsA := a.life()
		_, endsB := b.life()
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(endsA, endsB))
	})
	return slices.CompactFunc(all, func(a, b held) bool { return a.name == b.name })
}

// life returns the seconds at which a certificate begins and ends.
func (h held) life() (begin, end float64) {
	if h.leaf == nil {
		return 0, 0
	}
	return float64(h.leaf.NotBefore.Unix()), float64(h.leaf.NotAfter.Unix())
}
