package certificate

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	ossignal "os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cline-meet/signal/signal/setting"
)

// poll is how often the files of a certificate are looked at.
const poll = 5 * time.Second

// files are a certificate and its key, which may be replaced while they are in
// use: new handshakes see the new ones, connections live on.
type files struct {
	// Fixed after construction.
	flags             string // what the names of the two settings begin with
	certFile, keyFile string
	log               *slog.Logger

	current atomic.Pointer[tls.Certificate]

	seen stamp // Owned by who calls reload or watch.
}

// stamp tells versions of the two files apart.
type stamp struct {
	cert, key           time.Time
	certBytes, keyBytes int64
}

// pairs are the certificates of a service that come from files, at least one. They are for different names, or for the same
// with keys of different kinds.
type pairs []*files

// loadAll loads each certificate with its key.
func loadAll(flags string, certFiles, keyFiles []string, log *slog.Logger) (*pairs, error) {
	all := make(pairs, len(certFiles))
	var problems []error
	for i, certFile := range certFiles {
		var err error
		all[i], err = load(flags, certFile, keyFiles[i], log)
		problems = append(problems, err)
	}
	return &all, errors.Join(problems...)
}

// get returns the first certificate that is for the name that a client asks for, with a key that it can use, else the
// first, as crypto/tls does.
func (p *pairs) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	for _, f := range *p {
		if cert := f.current.Load(); hello.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	return (*p)[0].current.Load(), nil
}

func (p *pairs) held() []held {
	var all []held
	for _, f := range *p {
		all = append(all, f.held())
	}
	return all
}

// keepCurrent watches all files until ctx ends.
func (p *pairs) keepCurrent(ctx context.Context) {
	var running sync.WaitGroup
	for _, f := range *p {
		running.Go(func() { f.keepCurrent(ctx) })
	}
	running.Wait()
}

func load(flags, certFile, keyFile string, log *slog.Logger) (*files, error) {
	f := &files{flags: flags, certFile: certFile, keyFile: keyFile, log: log}
	return f, f.reload()
}

// reload reads the files again. On error the old certificate stays in use.
func (f *files) reload() error {
	pair, err := f.read()
	if err != nil {
		return fmt.Errorf("--%s-cert %s, --%s-key %s: %w%s", f.flags, f.certFile, f.flags, f.keyFile, err, f.remedy(err))
	}
	f.current.Store(&pair)
	return nil
}

func (f *files) read() (tls.Certificate, error) {
	seen, err := f.stat()
	if err != nil {
		return tls.Certificate{}, err
	}
	f.seen = seen
	return tls.LoadX509KeyPair(f.certFile, f.keyFile)
}

// remedy says what to do about files that make no certificate.
func (f *files) remedy(err error) string {
	cert, _ := os.ReadFile(f.certFile)
	key, _ := os.ReadFile(f.keyFile)
	_, der := x509.ParseCertificate(cert)
	switch text := err.Error(); {
	case errors.Is(err, fs.ErrPermission):
		return ": let the user of this process read it"
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EISDIR):
		return ": name the file"
	case der == nil:
		return ": the certificate is in binary, convert it by openssl x509 -inform der"
	case bytes.Contains(key, []byte("ENCRYPTED")):
		return ": the key is encrypted, write it without a passphrase by openssl pkey"
	case strings.Contains(text, "does not match"):
		return ": give each certificate the key that it was made with, and put it first in a file that has its chain"
	}
	return ": each must be a PEM file, such as fullchain.pem and privkey.pem of certbot"
}

func (f *files) stat() (stamp, error) {
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

// keepCurrent watches the files, and reads them again on SIGHUP, until ctx ends.
func (f *files) keepCurrent(ctx context.Context) {
	hangup := make(chan os.Signal, 1)
	ossignal.Notify(hangup, syscall.SIGHUP)
	defer ossignal.Stop(hangup)
	f.watch(ctx, hangup)
}

// watch reloads when a file has changed, and whenever hangup receives, until ctx
// ends. What cannot be loaded, such as a certificate without its key yet, is
// logged, and tried again with the next change.
func (f *files) watch(ctx context.Context, hangup <-chan os.Signal) {
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
		if err := f.reload(); err != nil {
			f.log.Warn("certificate not reloaded, the old one stays in use", "error", err)
			continue
		}
		f.log.Info("certificate reloaded", "file", f.certFile)
		var notes setting.Notes
		f.held().note(&notes, time.Now())
		notes.Log(f.log)
	}
}

func (f *files) held() held {
	leaf := f.current.Load().Leaf
	name, _, _ := strings.Cut(names(leaf), ",")
	return held{name: name, leaf: leaf, origin: fmt.Sprintf("--%s-cert %s", f.flags, f.certFile)}
}
