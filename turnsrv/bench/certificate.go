package bench

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// certify makes a certificate for the servers that are started, if one of them
// wants it. Its files are there until forget.
func (o *Options) certify() (forget func(), err error) {
	if !strings.Contains(o.Command+o.Against, "{cert}") {
		return func() {}, nil
	}
	directory, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, fmt.Errorf("making a directory for a certificate: %w", err)
	}
	forget = func() { _ = os.RemoveAll(directory) }
	o.certificate, o.key = filepath.Join(directory, "cert.pem"), filepath.Join(directory, "key.pem")
	if err := writeCertificate(o.certificate, o.key); err != nil {
		forget()
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	return forget, nil
}

// writeCertificate makes a certificate that nobody vouches for: clients of the bench
// do not look.
func writeCertificate(certificate, key string) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(credentialLife),
	}
	chain, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	return errors.Join(writePEM(certificate, "CERTIFICATE", chain), writePEM(key, "PRIVATE KEY", secret))
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
