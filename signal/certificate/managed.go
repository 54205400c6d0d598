package certificate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	ossignal "os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"cline-meet/signal/signal/setting"
)

// managed are certificates that an authority gives by ACME. certmagic speaks it, keeps what it gets, and knows when it is
// time for the next; here it is decided when to try, what is served meanwhile, and what is told.
//
// A node that has no certificate yet serves all the same: with one that it signed itself, which health checks and
// balancers accept and browsers refuse. It stays ready, since an authority that comes through a balancer reaches none but
// nodes that are.
type managed struct {
	// Fixed after construction.
	config    Config
	log       *slog.Logger
	roots     *x509.CertPool // who may sign the certificate of the ACME server, nil for the system's
	temporary *tls.Certificate
	secrets   secrets // encrypt what is shared

	// Fixed by open. Nil before, which a check stays.
	cache *certmagic.Cache
	acme  *certmagic.Config
	http  *certmagic.ACMEIssuer // answers HTTP-01

	opened atomic.Bool
}

// newManaged reads the files, and asks nobody.
func newManaged(c Config, log *slog.Logger) (*managed, error) {
	m := &managed{config: c, log: log}
	var err error
	if m.temporary, err = selfSigned(c.Domains); err != nil {
		return nil, err
	}
	if c.DNSHook != "" {
		if _, err := exec.LookPath(c.DNSHook); err != nil {
			return nil, fmt.Errorf("--acme-dns-hook %s: %w", c.DNSHook, err)
		}
	}
	if c.Roots != "" {
		m.roots, err = setting.Authorities("acme-ca", c.Roots)
	}
	return m, err
}

// directoryURL is where the ACME server is.
func (m *managed) directoryURL() string {
	switch m.config.Directory {
	case "":
		return certmagic.LetsEncryptProductionCA
	case staging:
		return certmagic.LetsEncryptStagingCA
	}
	return m.config.Directory
}

// open makes what asks. The port of plain HTTP must be bound before.
func (m *managed) open(n Node, plain *plain) error {
	storage, err := m.storage(n.Shared)
	if err != nil {
		return err
	}
	log := quiet(m.log)
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return m.acme, nil },
		Logger:           log,
	})
	m.acme = certmagic.New(m.cache, certmagic.Config{Storage: storage, Logger: log})
	m.http = certmagic.NewACMEIssuer(m.acme, certmagic.ACMEIssuer{
		CA: m.directoryURL(), TrustedRoots: m.roots, Agreed: true, Logger: log,
		Email:                m.config.Email + " ", // Were it empty, certmagic would ask for one on the terminal. It trims it.
		DisableHTTPChallenge: plain.port() == 0, AltHTTPPort: plain.port(), AltTLSALPNPort: n.Port, ListenHost: n.Hosts[0],
	})
	if id, key := m.config.eab(); id != "" {
		m.http.ExternalAccount = &acme.EAB{KeyID: id, MACKey: key}
	}
	if m.config.DNSHook != "" {
		m.http.DNS01Solver = hook(m.config.DNSHook)
	}
	m.acme.Issuers = []certmagic.Issuer{m.http}
	m.opened.Store(true)
	return nil
}

// storage is where certificates and keys are kept.
func (m *managed) storage(shared Vault) (certmagic.Storage, error) {
	if shared != nil && m.config.Storage == "" {
		return newSafe(shared, &m.secrets), nil
	}
	dir := m.config.directory()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("--acme-storage: %w", err)
	}
	return &certmagic.FileStorage{Path: dir}, nil
}

// get answers an authority that comes for TLS-ALPN-01, and others with the certificate of the name that they ask for, or
// of the first domain.
func (m *managed) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(hello.ServerName)
	if slices.Equal(hello.SupportedProtos, []string{acmez.ACMETLS1Protocol}) {
		if !m.opened.Load() || !slices.Contains(m.config.Domains, name) {
			return nil, errors.New("no challenge is open for that name")
		}
		return m.acme.GetCertificate(hello)
	}
	for _, name := range []string{name, m.config.Domains[0]} {
		if cert := m.newest(name); cert != nil {
			return &cert.Certificate, nil
		}
	}
	return m.temporary, nil
}

// newest returns the certificate of a name that ends last, nil while there is none.
func (m *managed) newest(name string) *certmagic.Certificate {
	if !m.opened.Load() {
		return nil
	}
	var newest *certmagic.Certificate
	for _, cert := range m.cache.AllMatchingCertificates(name) {
		if newest == nil || cert.Leaf.NotAfter.After(newest.Leaf.NotAfter) {
			newest = &cert
		}
	}
	return newest
}

func (m *managed) held() []held {
	var all []held
	for _, domain := range m.config.Domains {
		h := held{name: domain, origin: "--domain " + domain, renews: true}
		if cert := m.newest(domain); cert != nil {
			h.leaf = cert.Leaf
		}
		all = append(all, h)
	}
	return all
}

// keepCurrent has a certificate of every domain until ctx ends. SIGHUP tries at once what waits for its next try.
func (m *managed) keepCurrent(ctx context.Context) {
	hangup := make(chan os.Signal, 1)
	ossignal.Notify(hangup, syscall.SIGHUP)
	defer ossignal.Stop(hangup)
	var keeping sync.WaitGroup
	wake := make([]chan struct{}, len(m.config.Domains))
	for i, domain := range m.config.Domains {
		wake[i] = make(chan struct{}, 1)
		keeping.Go(func() { m.keep(ctx, domain, wake[i]) })
	}
	defer keeping.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
		}
		for _, w := range wake {
			select {
			case w <- struct{}{}:
			default: // It is about to try anyway.
			}
		}
	}
}

// keep has a certificate of a domain until ctx ends.
func (m *managed) keep(ctx context.Context, domain string, wake <-chan struct{}) {
	for failures := 0; ; {
		had := m.newest(domain)
		// certmagic tries with Let's Encrypt's staging first after a failure, which costs nothing there.
		err := m.ensure(context.WithValue(ofNode(ctx), certmagic.AttemptsCtxKey, &failures), domain)
		if ctx.Err() != nil {
			return
		}
		wait := jittered(untilNextLook(m.newest(domain)))
		if failures++; err == nil {
			failures = 0
		} else {
			wait = untilNextTry(err, failures)
		}
		m.tell(domain, had, err, wait)
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-time.After(wait):
		}
	}
}

// ensure loads the certificate of a domain, or asks for one when there is none or when it is time to renew. Of several
// nodes with one storage one asks, and the others wait for what it gets.
func (m *managed) ensure(ctx context.Context, domain string) error {
	cert := m.newest(domain)
	if cert == nil {
		first, err := m.first(ctx, domain)
		if err != nil {
			return err
		}
		cert = &first
	}
	if !cert.NeedsRenewal(m.acme) {
		return nil
	}
	if err := m.acme.RenewCertSync(ctx, domain, false); err != nil {
		return err
	}
	_, err := m.load(ctx, domain)
	return err
}

// first loads the certificate of a domain, and asks for one when there is none. It may be time to renew it.
func (m *managed) first(ctx context.Context, domain string) (certmagic.Certificate, error) {
	cert, err := m.load(ctx, domain)
	if !errors.Is(err, fs.ErrNotExist) {
		return cert, err
	}
	if err := m.acme.ObtainCertSync(ctx, domain); err != nil {
		return cert, err
	}
	return m.load(ctx, domain)
}

// load puts the certificate of a domain into use that is in the storage. certmagic renews what has less than five looks left: it is
// told of shorter ones before it is asked, or every node that starts would renew a certificate that lives for an hour.
func (m *managed) load(ctx context.Context, domain string) (certmagic.Certificate, error) {
	cert, err := m.acme.CacheManagedCertificate(ctx, domain)
	if err != nil {
		return cert, fmt.Errorf("loading the certificate: %w", err)
	}
	if look := untilNextLook(&cert); look < looks {
		m.cache.SetOptions(certmagic.CacheOptions{
			GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return m.acme, nil },
			RenewCheckInterval: look, Logger: m.acme.Logger,
		})
	}
	return cert, nil
}

// tell logs what has become of a domain's certificate.
func (m *managed) tell(domain string, had *certmagic.Certificate, err error, wait time.Duration) {
	now := m.newest(domain)
	switch {
	case err != nil && now == nil:
		m.log.Warn("there is no certificate: browsers cannot come", "domain", domain, "error", err, "retry_s", wait.Seconds(), "code", "certificate_failed")
	case err != nil:
		m.log.Warn("certificate not renewed, the old one stays in use", "domain", domain, "ends", now.Leaf.NotAfter.UTC(), "error", err, "retry_s", wait.Seconds(), "code", "certificate_failed")
	case had == nil || had.Hash() != now.Hash():
		m.log.Info("certificate is in use", "domain", domain, "ends", now.Leaf.NotAfter.UTC(), "issuer", now.Leaf.Issuer.CommonName)
	}
}

// looks are how often it is looked whether it is time to renew.
const looks = 10 * time.Minute

// untilNextLook is a hundredth of a certificate's life, since some live for hours, but at most looks.
func untilNextLook(cert *certmagic.Certificate) time.Duration {
	if cert == nil {
		return looks
	}
	return max(time.Second, min(looks, cert.Lifetime()/100))
}

// Times between tries. An authority that has refused counts that, and then refuses for hours; one that was not reached,
// or a storage, does not.
const (
	firstRetry, lastRetry     = 5 * time.Second, 2 * time.Minute
	firstRefused, lastRefused = time.Minute, time.Hour
)

// untilNextTry doubles with each failure.
func untilNextTry(err error, failures int) time.Duration {
	first, last := firstRetry, lastRetry
	if problem := (acme.Problem{}); errors.As(err, &problem) {
		first, last = firstRefused, lastRefused
	}
	return jittered(min(first<<min(failures-1, 10), last))
}

// jittered spreads what many nodes would do at the same time.
func jittered(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d)/5))
}
