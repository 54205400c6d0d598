// Package certificate keeps the certificate of a server current while its files are replaced.
package certificate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	ossignal "os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cline-meet/signal/signal/setting"
)

// poll is how often the certificate's files are looked at.
const poll = 5 * time.Second

// Files are a certificate and its key, which may be replaced while they are in
// use: new handshakes see the new ones, connections live on.
type Files struct {
	// Fixed after construction.
	certFile, keyFile string
	log               *slog.Logger

	current atomic.Pointer[tls.Certificate]

	// Owned by who calls Reload or Watch.
	seen stamp
}

// stamp tells versions of the two files apart.
type stamp struct {
	cert, key           time.Time
	certBytes, keyBytes int64
}

// Load reads the files. Its error names the flags.
func Load(certFile, keyFile string, log *slog.Logger) (*Files, error) {
	f := &Files{certFile: certFile, keyFile: keyFile, log: log}
	return f, f.Reload()
}

// Reload reads the files again. On error the old certificate stays in use.
func (f *Files) Reload() error {
	seen, err := f.stat()
	if err != nil {
		return fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	f.seen = seen
	pair, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
	if err != nil {
		return fmt.Errorf("--tls-cert %s, --tls-key %s: %w", f.certFile, f.keyFile, err)
	}
	f.current.Store(&pair)
	return nil
}

// soon is how long before its end a certificate should have been renewed.
const soon = 14 * 24 * time.Hour

// Notes tell what is wrong with the certificate at a time; host is what clients are told to connect to over TLS,
// empty for any name. There may be no files.
func (f *Files) Notes(now time.Time, host string) setting.Notes {
	var n setting.Notes
	if f == nil {
		return nil
	}
	leaf := f.current.Load().Leaf
	ends := leaf.NotAfter.UTC().Format(time.DateTime)
	switch {
	case now.After(leaf.NotAfter):
		n.Warnf("certificate_expired", "the certificate in --tls-cert %s has ended at %s: browsers refuse it, renew it", f.certFile, ends)
	case now.Before(leaf.NotBefore):
		n.Warnf("certificate_not_yet_valid", "the certificate in --tls-cert %s begins at %s: is the clock of this machine right?",
			f.certFile, leaf.NotBefore.UTC().Format(time.DateTime))
	case leaf.NotAfter.Sub(now) < soon && leaf.NotAfter.Sub(leaf.NotBefore) > 2*soon:
		n.Warnf("certificate_ends_soon", "the certificate in --tls-cert %s ends at %s: renew it", f.certFile, ends)
	}
	if host != "" && leaf.VerifyHostname(host) != nil {
		n.Warnf("certificate_for_other_name", "the certificate in --tls-cert %s is not for --turn-public-host %s, but for %s: browsers refuse turns: there",
			f.certFile, host, strings.Join(names(leaf), ", "))
	}
	return n
}

// Collector returns the metric of when the certificate ends.
func (f *Files) Collector() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "signal_certificate_expiry_timestamp_seconds", Help: "When the certificate ends.",
	}, func() float64 { return float64(f.current.Load().Leaf.NotAfter.Unix()) })
}

// String says what the certificate is for, and until when.
func (f *Files) String() string {
	leaf := f.current.Load().Leaf
	return fmt.Sprintf("%s for %s, until %s", f.certFile, strings.Join(names(leaf), ", "), leaf.NotAfter.UTC().Format(time.DateTime))
}

// names are those that a certificate is for.
func names(leaf *x509.Certificate) []string {
	all := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return []string{"no name"}
	}
	return all
}

func (f *Files) stat() (stamp, error) {
	cert, err := os.Stat(f.certFile)
	if err != nil {
		return stamp{}, err
	}
	key, err := os.Stat(f.keyFile)
	if err != nil {
		return stamp{}, err
	}
	return stamp{cert.ModTime(), key.ModTime(), cert.Size(), key.Size()}, nil
}

// KeepCurrent watches the files, and reads them again on SIGHUP, until the returned function is called.
// There may be no files.
func (f *Files) KeepCurrent() (stop func()) {
	if f == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	hangup := make(chan os.Signal, 1)
	ossignal.Notify(hangup, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Watch(ctx, hangup)
	}()
	return func() {
		cancel()
		ossignal.Stop(hangup)
		<-done
	}
}

// Watch reloads when a file has changed, and whenever hangup receives, until ctx
// ends. What cannot be loaded, such as a certificate without its key yet, is
// logged, and tried again with the next change.
func (f *Files) Watch(ctx context.Context, hangup <-chan os.Signal) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
		case <-tick.C:
			if seen, err := f.stat(); err != nil || seen == f.seen {
				continue
			}
		}
		if err := f.Reload(); err != nil {
			f.log.Warn("certificate not reloaded, the old one stays in use", "error", err)
			continue
		}
		f.log.Info("certificate reloaded", "file", f.certFile)
	}
}

// TLSConfig returns a server's config that always uses the current certificate.
func (f *Files) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return f.current.Load(), nil
		},
	}
}
