package setting

import (
	"crypto/x509"
	"fmt"
	"os"
)

// Authorities reads the PEM file of a setting, which says who may sign certificates.
func Authorities(name, file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", name, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--%s: %s holds no certificate", name, file)
	}
	return pool, nil
}
