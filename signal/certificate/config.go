package certificate

import (
	"encoding/base64"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"cline-meet/signal/signal/setting"
)

// derivedHTTPPort is the port of plain HTTP that nobody has asked for by its number. Another process may have it.
const derivedHTTPPort = 80

// staging is what --acme-directory calls the directory of Let's Encrypt that is for trials.
const staging = "staging"

// Config says where the certificates of a node come from.
type Config struct {
	// Certs and Keys, in the same order, are of HTTPS and, where it has none of its own, of TURN.
	Certs, Keys         []string
	TURNCerts, TURNKeys []string
	Domains             []string // Domains get their certificates by ACME, unless there are Certs.
	HTTPPort            int      // HTTPPort is where plain HTTP answers HTTP-01 and sends browsers to HTTPS, 0 for none.

	Directory string // Directory is the URL of the ACME server, "staging", or empty for Let's Encrypt.
	Email     string
	EAB       string // EAB binds the account to one that the authority knows: the ID of a key, a colon and the key.
	Roots     string // Roots is a PEM file with who may sign the certificate of the ACME server.
	DNSHook   string // DNSHook is a program that sets TXT records, for DNS-01.
	Storage   string // Storage is a directory.

	// OpenSecret says that the secret of what nodes share lies beside it.
	OpenSecret bool
}

// Settings returns the table of what flags, the environment and the config file fill c with.
func (c *Config) Settings() setting.Table {
	return setting.Category("Certificates",
		setting.List("domain", &c.Domains, "`NAMES` of this node, comma separated: it gets certificates for them by ACME, and serves HTTPS on 443 and TURN under the first"),
		setting.List("tls-cert", &c.Certs, "PEM `FILES` with the certificate chain of HTTPS, and of TURN without --turn-tls-cert; several, comma separated, are chosen by the name that the client asks for, else the first; reloaded when they change"),
		setting.List("tls-key", &c.Keys, "PEM `FILES` with the keys of --tls-cert, in the same order"),
		setting.List("turn-tls-cert", &c.TURNCerts, "PEM `FILES` with the certificate chain of TURN alone, as --tls-cert; without that HTTP stays plain"),
		setting.List("turn-tls-key", &c.TURNKeys, "PEM `FILES` with the keys of --turn-tls-cert, in the same order"),
		setting.Port("http-port", &c.HTTPPort, 0, "`PORT` of plain HTTP that sends browsers to HTTPS and answers HTTP-01, 0 for none").Otherwise("80 with --domain, else none"),
		setting.Text("acme-directory", &c.Directory, "`URL` of the ACME server; staging is Let's Encrypt's for trials").Otherwise("Let's Encrypt"),
		setting.Text("acme-email", &c.Email, "`ADDRESS` that the authority may write to"),
		setting.Text("acme-eab", &c.EAB, "`ID:KEY` that binds the ACME account to one that you have there (EAB), the key in base64url"),
		setting.Text("acme-ca", &c.Roots, "PEM `FILE` with the authorities that may sign the certificate of the ACME server, instead of the system's"),
		setting.Text("acme-dns-hook", &c.DNSHook, "`PROGRAM` that proves names by DNS-01: called with present or cleanup, the name of the TXT record and its value"),
		setting.Text("acme-storage", &c.Storage, "`DIRECTORY` of certificates and keys").Otherwise("Redis, or the state directory of systemd or the user"),
	)
}

// Validate returns every problem of the settings, each naming its flag, joined into one error. Shared says that there
// is a place for certificates that all nodes share.
func (c *Config) Validate(shared bool) error {
	var p setting.Problems
	c.Settings().Check(&p)
	checkPairs(&p, "tls", c.Certs, c.Keys)
	checkPairs(&p, "turn-tls", c.TURNCerts, c.TURNKeys)
	p.Check(c.HTTPPort == 0 || c.HTTPS(), "http-port", "%d: there is no HTTPS to send browsers to: set --domain or --tls-cert", c.HTTPPort)
	for i, domain := range c.Domains {
		c.checkDomain(&p, domain, i == 0)
	}
	c.checkACME(&p)
	p.Check(!c.automatic() || shared || c.directory() != "", "acme-storage", "there is no home or state directory: say where to keep certificates and keys")
	return p.Err()
}

// checkPairs refuses certificates without keys, and keys without certificates.
func checkPairs(p *setting.Problems, flags string, certs, keys []string) {
	if len(certs) > 0 && len(keys) > 0 {
		p.Check(len(certs) == len(keys), flags+"-cert", "there are %d, and %d in --%s-key: give the key of each, in the same order", len(certs), len(keys), flags)
		return
	}
	p.Check(len(certs) == len(keys), flags+"-cert", "give it and --%s-key, or neither", flags)
}

// dnsName matches a name that an authority may know.
var dnsName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]$`)

func (c *Config) checkDomain(p *setting.Problems, domain string, first bool) {
	name, wild := strings.CutPrefix(domain, "*.")
	switch {
	case net.ParseIP(domain) != nil || len(domain) > 253 || !dnsName.MatchString(name):
		p.Addf("domain", "%q is not a name in DNS, such as signal.example.org", domain)
	case wild && first:
		p.Addf("domain", "%q cannot be the first, under which clients are told to come", domain)
	case wild && c.DNSHook == "":
		p.Addf("domain", "%q can be proved by DNS alone: set --acme-dns-hook", domain)
	}
}

// checkACME refuses settings of ACME that are senseless or for nothing.
func (c *Config) checkACME(p *setting.Problems) {
	for name, value := range map[string]string{"acme-directory": c.Directory, "acme-email": c.Email, "acme-eab": c.EAB,
		"acme-ca": c.Roots, "acme-dns-hook": c.DNSHook, "acme-storage": c.Storage} {
		p.Check(value == "" || c.automatic(), name, "there is nothing to ask an authority for: set --domain, without --tls-cert")
	}
	u, err := url.Parse(c.Directory)
	p.Check(c.Directory == "" || c.Directory == staging || err == nil && u.Scheme == "https" && u.Host != "", "acme-directory", "%q is not a https:// URL", c.Directory)
	id, key := c.eab()
	_, err = base64.RawURLEncoding.DecodeString(key)
	p.Check(c.EAB == "" || err == nil && id != "" && key != "", "acme-eab", "not the ID of a key, a colon and the key in base64url without padding")
}

func (c *Config) eab() (id, key string) {
	id, key, _ = strings.Cut(c.EAB, ":")
	return id, key
}

// automatic says whether certificates come from an authority.
func (c *Config) automatic() bool { return len(c.Domains) > 0 && len(c.Certs) == 0 }

// HTTPS says whether browsers come by TLS.
func (c *Config) HTTPS() bool { return len(c.Certs) > 0 || c.automatic() }

// TURN says whether TURN is there over TLS.
func (c *Config) TURN() bool { return len(c.TURNCerts) > 0 || c.HTTPS() }

// Derived returns the settings that follow from the domains, for those that nobody has set.
func (c *Config) Derived() map[string]string {
	if len(c.Domains) == 0 || !dnsName.MatchString(c.Domains[0]) {
		return nil
	}
	return map[string]string{"server-port": "443", "http-port": strconv.Itoa(derivedHTTPPort), "turn-public-host": c.Domains[0]}
}

// directory is where certificates are kept on disk, empty when there is no such place.
func (c *Config) directory() string {
	for _, place := range [][2]string{{c.Storage, ""}, {os.Getenv("STATE_DIRECTORY"), "acme"}, {os.Getenv("XDG_STATE_HOME"), "signal/acme"}, {os.Getenv("HOME"), ".local/state/signal/acme"}} {
		if place[0] != "" {
			return filepath.Join(place[0], place[1])
		}
	}
	return ""
}
