package packaging_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/packaging/systemtest/acmetest"
)

// domain is the name of the machine.
const domain = "signal.example.test"

// servesDomain goes with one setting from the installation to a call that needs no port but 443, on a machine that has
// nothing of the service yet.
func (s *booted) servesDomain(deb string) {
	s.t.Helper()
	systemtest.Need(s.t, "chromium", "certutil")
	ca := acmetest.New(s.t, acmetest.Options{Host: s.network.host, Names: s.network.ip, HTTPPort: 80, TLSPort: 443})
	ca.Start()
	s.run("echo '" + s.network.ip + " " + domain + "' >>/etc/hosts")
	s.run("apt-get install --yes --quiet /" + filepath.Base(deb) + " && test ! -e /var/lib/signal")
	s.run("sed -i 's/^#domain: .*/domain: " + domain + "/' /etc/signal/signal.yaml")
	s.asksAuthority(ca)
	s.run("systemctl enable --now signal")
	first := s.certificate(ca.Roots())
	if got, want := s.certificateFiles(), domain+".crt signal 600\n"+domain+".json signal 600\n"+domain+".key signal 600"; got != want {
		s.t.Errorf("certificate files:\n%s\nwant\n%s", got, want)
	}
	s.t.Run("call", func(t *testing.T) { s.during(t).calls(ca.Root()) })
	s.run("systemctl restart signal")
	if again := s.certificate(ca.Roots()); again.SerialNumber.Cmp(first.SerialNumber) != 0 || ca.Orders() != 1 {
		s.t.Errorf("after a restart certificate %d instead of %d, and %d orders", again.SerialNumber, first.SerialNumber, ca.Orders())
	}
}

// asksAuthority has the service ask that of the test instead of Let's Encrypt, for which nothing has to be set.
func (s *booted) asksAuthority(ca *acmetest.Server) {
	s.t.Helper()
	s.bring(ca.CA)
	s.run("install --mode 644 /" + filepath.Base(ca.CA) + " /etc/signal/acme-ca.pem")
	s.run("printf 'acme-directory: " + ca.Directory + "\\nacme-ca: /etc/signal/acme-ca.pem\\n' >>/etc/signal/signal.yaml")
}

// certificate waits until port 443 has one for the domain that is to be trusted, and returns it.
func (s *booted) certificate(roots *x509.CertPool) (leaf *x509.Certificate) {
	s.t.Helper()
	systemtest.Until(s.t, "a certificate of "+domain, func() error {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: systemtest.Patience}, "tcp", s.network.ip+":443", &tls.Config{ServerName: domain, RootCAs: roots})
		if err != nil {
			return err
		}
		leaf = conn.ConnectionState().PeerCertificates[0]
		return conn.Close()
	})
	return leaf
}

// certificateFiles lists what is kept of the certificate.
func (s *booted) certificateFiles() string {
	s.t.Helper()
	return s.run("find /var/lib/signal/acme/certificates -type f -printf '%f %u %m\\n' | sort")
}

// calls has two people with a browser that trusts the root beside those that browsers come with, and no other
// certificate, call each other through TURN over TLS.
func (s *booted) calls(root []byte) {
	s.t.Helper()
	browser := pagetest.Start(s.t, chromedp.Flag("ignore-certificate-errors", false), chromedp.Env("HOME="+trusting(s.t, root)),
		chromedp.Flag("host-resolver-rules", "MAP "+domain+" "+s.network.ip))
	link := "https://" + domain + "/?autojoin=1&room=fresh&media=synthetic&transport=relay-tls"
	a, b := browser.Open(s.t, link), browser.Open(s.t, link)
	throughThePort := func(c pagetest.Connection) bool {
		return c.Relayed() && c.RelayProtocol == "tls" && c.RelayURL == "turns:"+domain+":443?transport=tcp"
	}
	for _, p := range []pagetest.Page{a, b} {
		p.Connected(1, throughThePort)
	}
	pagetest.Talk(a, b, "from a machine that is as new")
}

// trusting returns a home directory whose browser trusts a root.
func trusting(t *testing.T, root []byte) (home string) {
	t.Helper()
	home = t.TempDir()
	db, file := filepath.Join(home, ".pki/nssdb"), filepath.Join(home, "root.pem")
	if err := os.MkdirAll(db, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, root, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, nil, "certutil", "-d", "sql:"+db, "-N", "--empty-password")
	must(t, nil, "certutil", "-d", "sql:"+db, "-A", "-n", "root", "-t", "C,,", "-i", file)
	return home
}
