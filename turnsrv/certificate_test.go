package turnsrv

import (
	"bytes"
	"crypto/tls"
	"sync/atomic"
	"testing"
)

// TestCertificateSwapUnderLoad replaces the certificate while clients relay over
// TLS: theirs live on, new ones see the new one.
func TestCertificateSwapUnderLoad(t *testing.T) {
	var current atomic.Pointer[tls.Certificate]
	old, fresh := makeCertificate(t.TempDir()), makeCertificate(t.TempDir())
	current.Store(&old)
	cfg := loopbackConfig()
	cfg.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }}
	s := startServer(t, cfg)
	var flows []*flow
	for range 4 {
		flows = append(flows, newFlow(t, s, "tls", "alice"))
	}
	stop, failed := make(chan struct{}), make(chan error, len(flows))
	for _, f := range flows {
		go func() { failed <- f.keepRelaying(stop) }()
	}
	for i := range 40 {
		want := &old
		if i >= 20 {
			current.Store(&fresh)
			want = &fresh
		}
		c := dialed(t, s, "tls", "bob")
		if got := c.conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw; !bytes.Equal(got, want.Certificate[0]) {
			t.Errorf("client %d sees another certificate", i)
		}
		if err := c.challenge(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	for range flows {
		if err := <-failed; err != nil {
			t.Errorf("an old connection: %v", err)
		}
	}
}

// keepRelaying makes round trips until stop is closed, at least one.
func (f *flow) keepRelaying(stop <-chan struct{}) error {
	for {
		if err := f.roundTrip("load"); err != nil {
			return err
		}
		select {
		case <-stop:
			return nil
		default:
		}
	}
}
