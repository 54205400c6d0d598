package certificate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowKey signs slowly, and notes for how many at once at most.
type slowKey struct {
	crypto.Signer
	mu            sync.Mutex
	signing, most int
}

func (k *slowKey) note(change int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.signing += change
	k.most = max(k.most, k.signing)
}

func (k *slowKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.note(1)
	defer k.note(-1)
	time.Sleep(time.Second)
	return k.Signer.Sign(random, digest, opts)
}

// keyed is a source with one key.
type keyed struct {
	source
	key crypto.Signer
}

func (k keyed) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &tls.Certificate{PrivateKey: k.key}, nil
}

// TestSignaturesWaitForEachOther signs for many handshakes of HTTPS and TURN at once.
func TestSignaturesWaitForEachOther(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		key := &slowKey{Signer: private}
		s := &Set{https: keyed{key: key}, turn: keyed{key: key}, turns: make(turns, 2)}
		began := time.Now()
		var all sync.WaitGroup
		for _, cfg := range []*tls.Config{s.HTTPS(), s.TURN()} {
			for range 5 {
				all.Go(func() {
					cert, err := cfg.GetCertificate(nil)
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := cert.PrivateKey.(crypto.Signer).Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err != nil {
						t.Error(err)
					}
				})
			}
		}
		all.Wait()
		if most, took := key.most, time.Since(began); most > 2 || took != 5*time.Second {
			t.Errorf("%d have signed at once, 10 in %v", most, took)
		}
	})
}
