package certificate

import (
	"crypto"
	"crypto/tls"
	"io"
	"runtime"
)

// turns have handshakes wait for each other. A signature takes as long as dozens of messages, by RSA hundreds, and any stranger can ask
// for many at once: on half of the cores those whose messages are to be relayed need not wait for them.
type turns chan struct{}

func newTurns() turns { return make(turns, max(1, runtime.GOMAXPROCS(0)/2)) }

// find has the certificates that it finds sign when it is their turn.
func (t turns) find(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		found, err := get(hello)
		if err != nil || found == nil {
			return found, err
		}
		cert := *found
		if key, ok := cert.PrivateKey.(crypto.Signer); ok {
			cert.PrivateKey = turnSigner{key, t}
		}
		return &cert, nil
	}
}

// turnSigner is a key that signs when it is its turn.
type turnSigner struct {
	crypto.Signer
	turns turns
}

func (s turnSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.turns <- struct{}{}
	defer func() { <-s.turns }()
	return s.Signer.Sign(rand, digest, opts)
}
