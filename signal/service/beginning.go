package service

import (
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/signal/setting"
)

// beginningText is the settings file of who begins.
//
//go:embed beginning.yaml.tmpl
var beginningText string

// guideText says what is left to do.
//
//go:embed beginning.txt.tmpl
var guideText string

// beginning is what `signal init` writes a settings file from.
type beginning struct {
	Domain    string
	File      string
	Cert, Key string
	force     bool

	SessionSecret, TURNSecret  string
	Addresses                  []netip.Addr // Addresses are those of this machine that the internet knows.
	HTTP, TURN, TLS, Low, High int
	Plain                      int // Plain is the port of HTTP that proves the domain to an authority, 0 for none.
}

// InitCommand is `signal init`, which writes a settings file and says what is left to do.
func InitCommand(stdout io.Writer) *cli.Command {
	b := beginning{}
	return &cli.Command{
		Name:  "init",
		Usage: "Write a settings file to begin with, and say what is left to do",
		Description: "It has new secrets, so only its owner may read it, and a file that is there is left alone. Afterwards come the records\n" +
			"that the domain needs, the ports to open and the command to start with.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "domain", Usage: "`NAME` under which users will come", Destination: &b.Domain},
			&cli.StringFlag{Name: "file", Usage: "`FILE` to write", Value: "signal.yaml", Destination: &b.File},
			&cli.StringFlag{Name: "tls-cert", Usage: "PEM `FILE` with the certificate chain of the domain", DefaultText: "that of certbot, if it is there, else by ACME", Destination: &b.Cert},
			&cli.StringFlag{Name: "tls-key", Usage: "PEM `FILE` with its key", DefaultText: "that of certbot, if it is there", Destination: &b.Key},
			&cli.BoolFlag{Name: "force", Usage: "write over a file that is there", Destination: &b.force},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("%q: unexpected argument; the domain is given as --domain NAME", c.Args().First())
			}
			return b.begin(stdout)
		},
	}
}

// begin writes the file and the guide.
func (b *beginning) begin(stdout io.Writer) error {
	if err := b.complete(); err != nil {
		return err
	}
	var text strings.Builder
	if err := template.Must(template.New("settings").Parse(beginningText)).Execute(&text, b); err != nil {
		return err
	}
	if err := b.write(text.String()); err != nil {
		return err
	}
	if err := b.reread(); err != nil {
		return err
	}
	return template.Must(template.New("guide").Parse(guideText)).Execute(stdout, b)
}

// reread takes the ports from what a node makes of the file.
func (b *beginning) reread() error {
	s := NewSettings()
	problems := slices.Concat(s.Table.ReadFile(configFlag, b.File), s.derive())
	b.HTTP, b.Plain, b.TURN, b.TLS, b.Low, b.High = s.Signal.Port, s.Certificate.HTTPPort, s.TURN.Port, s.TURN.TLSPort, s.TURN.MinPort, s.TURN.MaxPort
	return errors.Join(problems.Err(), s.Validate())
}

// certbot is where that tool keeps certificates.
var certbot = "/etc/letsencrypt/live"

// complete fills in what nobody has said, and finds what is wrong with what was said.
func (b *beginning) complete() error {
	s := NewSettings()
	b.HTTP, b.TURN, b.TLS, b.Low, b.High = s.Signal.Port, s.TURN.Port, s.TURN.TLSPort, s.TURN.MinPort, s.TURN.MaxPort
	if b.Domain != "" {
		s.Certificate.Domains = []string{b.Domain}
	}
	var p setting.Problems
	if s.Certificate.Validate(true) != nil {
		p.Addf("domain", "%q is not a name in DNS, such as signal.example.org", b.Domain)
	}
	if cert := filepath.Join(certbot, b.Domain, "fullchain.pem"); b.Domain != "" && b.Cert == "" && b.Key == "" && exists(cert) {
		b.Cert, b.Key = cert, filepath.Join(certbot, b.Domain, "privkey.pem")
	}
	p.Check((b.Cert == "") == (b.Key == ""), "tls-cert", "give it and --tls-key, or neither")
	for _, file := range []*string{&b.Cert, &b.Key} { // The node may be started elsewhere.
		if *file != "" {
			absolute, err := filepath.Abs(*file)
			p.Add("tls-cert", err)
			*file = absolute
		}
	}
	if b.Cert != "" || b.Domain != "" {
		b.HTTP = 443
	}
	b.SessionSecret, b.TURNSecret, b.Addresses = rand.Text(), rand.Text(), publicAddresses()
	return p.Err()
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// write writes the file, which only its owner may read, over no other one.
func (b *beginning) write(text string) error {
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if b.force {
		if err := os.Remove(b.File); err != nil && !errors.Is(err, os.ErrNotExist) { // Its rights would stay.
			return fmt.Errorf("--file: %w", err)
		}
	}
	file, err := os.OpenFile(b.File, flags, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("--file: %s is there already: choose another name, or write over it with --force", b.File)
	}
	if err != nil {
		return fmt.Errorf("--file: %w", err)
	}
	_, err = io.WriteString(file, text)
	return errors.Join(err, file.Close())
}

// publicAddresses returns the addresses of this machine that the internet may know it by.
func publicAddresses() (found []netip.Addr) {
	links, _ := net.Interfaces() // Without them the guide says what they are.
	for _, link := range links {
		if link.Flags&net.FlagRunning == 0 {
			continue
		}
		addrs, _ := link.Addrs()
		for _, a := range addrs {
			prefix, err := netip.ParsePrefix(a.String())
			if addr := prefix.Addr(); err == nil && addr.IsGlobalUnicast() && !addr.IsPrivate() {
				found = append(found, addr)
			}
		}
	}
	return found
}

// Record returns the kind of record in DNS that an address has.
func (*beginning) Record(addr netip.Addr) string {
	if addr.Is4() {
		return "A"
	}
	return "AAAA"
}
