package check

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// soon is when the end of a certificate is worth a word.
const soon = 14 * 24 * time.Hour

// certificates is the check of what a server shows over some ways.
func (r *reach) certificates(o *Options, ways ...string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		detail := ""
		for _, over := range ways {
			for _, a := range r.good(over) {
				var err error
				if detail, err = o.verify(a.conn.certs, r.host); err != nil {
					return "", fmt.Errorf("%s: %w", a.where(r), err)
				}
			}
		}
		if detail == "" {
			return "", untried("none was shown")
		}
		return detail, nil
	}
}

// verify says what browsers would object to in a certificate for host: each thing by itself, so that a certificate that has ended
// is not said to be signed by nobody as well.
func (o *Options) verify(certs []*x509.Certificate, host string) (detail string, err error) {
	if len(certs) == 0 {
		return "", errors.New("no certificate was shown")
	}
	leaf, now := certs[0], o.now()
	switch {
	case now.After(leaf.NotAfter):
		err = faultf("renew it; a node reads the files of --tls-cert and --tls-key again by itself", "ended on %s", day(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		err = faultf("set the clock, here or where the certificate was made", "begins on %s only", day(leaf.NotBefore))
	}
	names := certs[0].DNSNames
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if leaf.VerifyHostname(host) != nil {
		err = errors.Join(err, faultf("get one for "+host+", or use a name that it has", "is for %s, not for %s", strings.Join(names, ", "), host))
	}
	intermediates := x509.NewCertPool()
	for _, c := range certs[1:] {
		intermediates.AddCert(c)
	}
	within := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	if _, failed := leaf.Verify(x509.VerifyOptions{Roots: o.Roots, Intermediates: intermediates, CurrentTime: within}); failed != nil {
		err = errors.Join(err, faultf("the file of --tls-cert holds the whole chain, the server's own first; give --ca for an authority of your own",
			"is signed by nobody that browsers know (issuer %s)", leaf.Issuer))
	}
	detail = fmt.Sprintf("%s, until %s", strings.Join(names, ", "), day(leaf.NotAfter))
	if left := leaf.NotAfter.Sub(now); left < soon {
		detail += fmt.Sprintf(", only %d more days", int(left.Hours()/24))
	}
	return detail, err
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
