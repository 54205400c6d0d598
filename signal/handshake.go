package signal

import (
	"crypto"
	"crypto/tls"
	"io"
	"runtime"
)

// A signature takes as long as dozens of messages, by RSA hundreds, and any stranger can ask for many at once. They wait for each
// other, so that those whose messages are to be relayed need not wait for them.

// signInTurn has the certificates of a config sign on half of the cores.
func signInTurn(cfg *tls.Config) {
	find := cfg.GetCertificate
	if find == nil {
		return
	}
	turns := make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
	cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		found, err := find(hello)
		if err != nil || found == nil {
			return found, err
		}
		cert := *found
		if key, ok := cert.PrivateKey.(crypto.Signer); ok {
			cert.PrivateKey = turnSigner{key, turns}
		}
		return &cert, nil
	}
}

// turnSigner is a key that signs when it is its turn.
type turnSigner struct {
	crypto.Signer
	turns chan struct{}
}

func (s turnSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.turns <- struct{}{}
	defer func() { <-s.turns }()
	return s.Signer.Sign(rand, digest, opts)
}
