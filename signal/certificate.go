package signal

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// certificatePoll is how often the certificate's files are looked at.
const certificatePoll = 5 * time.Second

// Certificate is a certificate and its key in two files, which may be replaced
// while it is in use: new handshakes see the new one, connections live on.
type Certificate struct {
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

// LoadCertificate reads the files. Its error names the flags.
func LoadCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log}
	return c, c.Reload()
}

// Reload reads the files again. On error the old certificate stays in use.
func (c *Certificate) Reload() error {
	seen, err := c.stat()
	if err != nil {
		return fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	c.seen = seen
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	c.current.Store(&pair)
	return nil
}

func (c *Certificate) stat() (stamp, error) {
	cert, err := os.Stat(c.certFile)
	if err != nil {
		return stamp{}, err
	}
	key, err := os.Stat(c.keyFile)
	if err != nil {
		return stamp{}, err
	}
	return stamp{cert.ModTime(), key.ModTime(), cert.Size(), key.Size()}, nil
}

// Watch reloads when a file has changed, and whenever hangup receives, until ctx
// ends. What cannot be loaded, such as a certificate without its key yet, is
// logged, and tried again with the next change.
func (c *Certificate) Watch(ctx context.Context, hangup <-chan os.Signal) {
	tick := time.NewTicker(certificatePoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
		case <-tick.C:
			if seen, err := c.stat(); err != nil || seen == c.seen {
				continue
			}
		}
		if err := c.Reload(); err != nil {
			c.log.Warn("certificate not reloaded, the old one stays in use", "error", err)
			continue
		}
		c.log.Info("certificate reloaded", "file", c.certFile)
	}
}

// TLSConfig returns a server's config that always uses the current certificate.
func (c *Certificate) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}
