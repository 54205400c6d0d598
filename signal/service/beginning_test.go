package service

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/packaging/systemtest"
)

// initialize runs `signal init` and returns what it prints.
func initialize(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	app := &cli.App{Commands: []*cli.Command{InitCommand(&out)}, Writer: &out, ErrWriter: &out, ExitErrHandler: func(*cli.Context, error) {}}
	err := app.RunContext(t.Context(), append([]string{"signal", "init"}, args...))
	return out.String(), err
}

// TestInitWritesWhatServeTakes has a node check what was written, with a certificate and without, with a domain and without.
func TestInitWritesWhatServeTakes(t *testing.T) {
	program, dir := systemtest.Executable(t), t.TempDir()
	cert, key := systemtest.WriteCertificate(t, dir, systemtest.Certificate(t, "signal.example.org"))
	secrets := map[string]bool{}
	for i, test := range []struct {
		args  []string
		tells []string // tells matches what is left to do,
		finds []string // and what a node finds in the file.
	}{
		{nil, []string{`TCP +8080\n`, `UDP and TCP +3478\n`, `UDP +49152-65535\n`}, []string{"no TLS"}},
		{[]string{"--domain", "signal.example.org"}, []string{`signal\.example\.org +A `, `TCP +80, 443\n`, `signal check https://signal\.example\.org\n`}, []string{"https://127.0.0.1:443", "by ACME"}},
		{[]string{"--domain", "signal.example.org", "--tls-cert", cert, "--tls-key", key},
			[]string{`signal\.example\.org +A `, `TCP +443\n`, `UDP and TCP +3478, 5349\n`, `signal check https://signal\.example\.org\n`}, []string{"https://127.0.0.1:443", cert}},
	} {
		file := filepath.Join(dir, fmt.Sprintf("%d.yaml", i))
		guide, err := initialize(t, append(test.args, "--file", file)...)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range regexp.MustCompile(`(?m)^[a-z]+-secret: (\S{16,})$`).FindAllStringSubmatch(string(text), -1) {
			if secrets[secret[1]] || strings.Contains(guide, secret[1]) {
				t.Errorf("%v: a secret comes again, or is printed", test.args)
			}
			secrets[secret[1]] = true
		}
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v: mode %v, %v", test.args, info.Mode(), err)
		}
		for _, want := range append(test.tells, "signal serve --config "+file+"\n") {
			if !regexp.MustCompile(want).MatchString(guide) {
				t.Errorf("%v: %s is not said:\n%s", test.args, want, guide)
			}
		}
		out, err := exec.Command(program, "serve", "--config", file, "--check").CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v\n%s", test.args, err, out)
		}
		for _, want := range test.finds {
			if !strings.Contains(string(out), want) {
				t.Errorf("%v: a node finds no %s:\n%s", test.args, want, out)
			}
		}
	}
	if len(secrets) != 6 {
		t.Errorf("%d secrets", len(secrets))
	}
}

// TestInitLeavesFilesAlone writes over one that is there only if told to, and then takes its rights as well.
func TestInitLeavesFilesAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "signal.yaml")
	if err := os.WriteFile(file, []byte("turn-realm: mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := initialize(t, "--file", file); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a file that is there: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "turn-realm: mine\n" {
		t.Errorf("it holds %q (%v)", text, err)
	}
	if _, err := initialize(t, "--file", file, "--force"); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info, err)
	}
	for args, want := range map[string]string{
		"--domain 192.0.2.1": "not a name", "--domain https://x": "not a name", "--domain {node}.x": "not a name", "--tls-cert x": "--tls-key", "x.org": "--domain NAME", "--file /nowhere/x": "--file",
	} {
		if _, err := initialize(t, append([]string{"--file", file + "2"}, strings.Fields(args)...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
	if exists(file + "2") {
		t.Error("something was written all the same")
	}
}

// TestInitFindsCertbot takes the certificate that certbot keeps for the domain.
func TestInitFindsCertbot(t *testing.T) {
	before := certbot
	t.Cleanup(func() { certbot = before })
	certbot = t.TempDir()
	dir := filepath.Join(certbot, "signal.example.org")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "fullchain.pem"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "signal.yaml")
	if _, err := initialize(t, "--domain", "signal.example.org", "--file", file); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(file); !strings.Contains(string(text), `tls-key: "`+filepath.Join(dir, "privkey.pem")+`"`) {
		t.Errorf("written:\n%s", text)
	}
}
