package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
)

// wrongSetting is one mistake, and what the one message about it must have in it: the setting, the value unless it is
// a secret, and what to do.
type wrongSetting struct {
	args, env []string
	file      string
	said      []string
	secret    string // secret must not be said.
}

// wrongSettings are mistakes that people make. The directory has certificates in it.
func wrongSettings(dir string) map[string]wrongSetting {
	flag := func(said string, args ...string) wrongSetting {
		return wrongSetting{args: args, said: strings.Split(said, "|")}
	}
	env := func(said string, pairs ...string) wrongSetting {
		return wrongSetting{env: pairs, said: strings.Split(said, "|")}
	}
	file := func(said, text string) wrongSetting { return wrongSetting{file: text, said: strings.Split(said, "|")} }
	silent := func(w wrongSetting, secret string) wrongSetting { w.secret = secret; return w }
	tls := func(name string) []string {
		return []string{"--tls-cert", filepath.Join(dir, name, "cert.pem"), "--tls-key", filepath.Join(dir, name, "key.pem")}
	}
	return map[string]wrongSetting{
		"misspelt variable":                silent(env("TURN_SECERT|did you mean TURN_SECRET", "TURN_SECERT=abcdefghijklmnop"), "abcdefghijklmnop"),
		"another misspelt variable":        env("REDIS_HSOT|did you mean REDIS_HOST", "REDIS_HSOT=redis.example.org"),
		"variable in lower case":           env("turn_secret|did you mean TURN_SECRET", "turn_secret=abcdefghijklmnop"),
		"variable of ours that is none":    env("TURN_CERT|signal serve --help", "TURN_CERT=x"),
		"misspelt flag":                    flag("--turn-prot|did you mean --turn-port", "--turn-prot", "7"),
		"flag cut short":                   flag("--turn-external|did you mean --turn-external-ip", "--turn-external", "192.0.2.1"),
		"flag without its value":           flag("--turn-secret|a value must follow", "--turn-secret"),
		"setting without dashes":           flag(`"log-level"|did you mean --log-level`, "log-level"),
		"false as a word of its own":       flag(`"false"|--turn-enabled=false`, "--turn-enabled", "false"),
		"misspelt key":                     file("turn-sercet|line 1|did you mean turn-secret", "turn-sercet: abc\n"),
		"variable as key":                  file("TURN_SECRET|did you mean turn-secret", "TURN_SECRET: abc\n"),
		"key with a map":                   file("turn-secret|line 1|neither a value nor a list", "turn-secret: {a: b}\n"),
		"key that is there twice":          file("server-port|line 2|twice", "server-port: 80\nserver-port: 81\n"),
		"file that is no map":              file("--config|line 1|server-port: 8080", "- server-port\n"),
		"short secret of tokens":           silent(flag("--auth-secret|secret 1 of 1|at least 32", "--auth-secret", "sixteen-letters-!"), "sixteen"),
		"key set that is no URL":           flag("--auth-jwks|https://", "--auth-jwks", "ftp://app.example.org/keys"),
		"key set that is not there":        flag("--auth-jwks|/nowhere.json|no such file", "--auth-jwks", "/nowhere.json"),
		"backend that is no URL":           flag("--auth-url|https://", "--auth-url", "app.example.org/auth"),
		"tokens and a backend":             flag("--auth-url|--auth-jwks", "--auth-url", "https://app.example.org/auth", "--auth-jwks", "https://app.example.org/keys"),
		"audience without tokens":          flag("--auth-audience|--auth-secret", "--auth-audience", "calls"),
		"word for a number":                flag(`--server-port|"http"|whole number`, "--server-port", "http"),
		"number of a service":              env("--redis-port|tcp://10.0.0.1:6379|enableServiceLinks", "REDIS_PORT=tcp://10.0.0.1:6379"),
		"word for a time":                  flag(`--read-timeout|"soon"|1m30s`, "--read-timeout", "soon"),
		"port out of range":                flag("--turn-port|70000|0-65535", "--turn-port", "70000"),
		"short TURN secret":                silent(flag("--turn-secret|3 characters|at least 16", "--turn-secret", "abq"), "abq"),
		"short session secret":             silent(flag("--session-secret|secret 2 of 2|at least 16", "--session-secret", "sixteen-letters-!,xyzzy"), "xyzzy"),
		"value in quotation marks":         silent(env("TURN_SECRET|quotation marks|leave them out", `TURN_SECRET="abcdefghijklmnop"`), "abcdefghijklmnop"),
		"public host with a scheme":        flag("--turn-public-host|https://turn.example.org|such as turn.example.org", "--turn-public-host", "https://turn.example.org"),
		"public host with turn:":           flag("--turn-public-host|turn:turn.example.org|such as turn.example.org", "--turn-public-host", "turn:turn.example.org"),
		"public host with a port":          flag("--turn-public-host|turn.example.org:3478|such as turn.example.org", "--turn-public-host", "turn.example.org:3478"),
		"origin with a pattern":            flag("--allowed-origins|https://*.example.org|list every origin", "--allowed-origins", "https://*.example.org"),
		"origin of a WebSocket":            flag("--allowed-origins|wss://app.example.org|is https://app.example.org", "--allowed-origins", "wss://app.example.org"),
		"origin without a scheme":          flag("--allowed-origins|app.example.org|scheme://host", "--allowed-origins", "app.example.org"),
		"proxies everywhere":               flag("--trusted-proxies|0.0.0.0/0|name the proxies alone", "--trusted-proxies", "0.0.0.0/0", "--auth-secret", authSecret),
		"Redis password without Redis":     silent(env("--redis-password|set --redis-host", "REDIS_PASSWORD=xyzzy"), "xyzzy"),
		"Redis database without Redis":     env("--redis-db|2|set --redis-host", "REDIS_DB=2"),
		"Redis port without Redis":         env("--redis-port|6380|set --redis-host", "REDIS_PORT=6380"),
		"Sentinel password, no Sentinels":  silent(env("--redis-sentinel-password|--redis-sentinels", "REDIS_SENTINEL_PASSWORD=xyzzy"), "xyzzy"),
		"Redis host with a port":           flag("--redis-host|redis:6379|--redis-port", "--redis-host", "redis:6379"),
		"Redis host that is a URL":         silent(flag("--redis-host|--redis-url", "--redis-host", "redis://:xyzzy@redis"), "xyzzy"),
		"Redis URL of another kind":        silent(flag("--redis-url|redis://", "--redis-url", "http://:xyzzy@redis"), "xyzzy"),
		"TLS port without a certificate":   flag("--turn-tls-port|443|set --tls-cert", "--turn-tls-port", "443"),
		"certificate without its key":      flag("--tls-cert|--tls-key", "--tls-cert", "cert.pem"),
		"certificate that is not there":    flag("--tls-cert|/nowhere.pem|no such file", "--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.pem"),
		"certificate that has ended":       flag("--tls-cert|ended/cert.pem|has ended at|renew", tls("ended")...),
		"certificate of the future":        flag("--tls-cert|future/cert.pem|clock", tls("future")...),
		"certificate that ends soon":       flag("--tls-cert|soon/cert.pem|renew", tls("soon")...),
		"certificate of another name":      flag("--tls-cert|other.example.org|turn.example.org|localhost", append(tls("good"), "--turn-public-host", "other.example.org")...),
		"TURN certificate without its key": flag("--turn-tls-cert|--turn-tls-key", "--turn-tls-cert", "cert.pem"),
		"TURN certificate of another name": flag("--turn-tls-cert|other.example.org|localhost|not advertised",
			"--turn-tls-cert", filepath.Join(dir, "good/cert.pem"), "--turn-tls-key", filepath.Join(dir, "good/key.pem"), "--turn-public-host", "other.example.org"),
		"balancer without TLS":            flag("--turn-tls-url|turn:lb.example.org|turns:", "--turn-tls-url", "turn:lb.example.org"),
		"domain that is an address":       flag("--domain|192.0.2.1|such as signal.example.org", "--domain", "192.0.2.1"),
		"domain with a scheme":            flag("--domain|https://signal.example.org|such as", "--domain", "https://signal.example.org"),
		"wildcard without DNS":            flag("--domain|*.example.org|--acme-dns-hook", "--domain", "signal.example.org,*.example.org"),
		"wildcard as the name":            flag("--domain|*.example.org|first", "--domain", "*.example.org"),
		"ACME server without TLS":         flag("--acme-directory|http://ca.example.org|https://", "--domain", "signal.example.org", "--acme-directory", "http://ca.example.org"),
		"ACME without a domain":           flag("--acme-email|set --domain", "--acme-email", "me@example.org"),
		"EAB without its key":             silent(flag("--acme-eab|colon", "--domain", "signal.example.org", "--acme-eab", "xyzzy"), "xyzzy"),
		"EAB key in another form":         silent(flag("--acme-eab|base64url", "--domain", "signal.example.org", "--acme-eab", "k:x+yzzy="), "x+yzzy="),
		"DNS hook that is not there":      flag("--acme-dns-hook|/nowhere|no such file", "--domain", "signal.example.org", "--acme-dns-hook", "/nowhere"),
		"redirect without HTTPS":          flag("--http-port|80|--domain", "--http-port", "80"),
		"HTTP and HTTPS on one port":      flag("--server-port|8443|--http-port", append(tls("good"), "--http-port", "8443", "--server-port", "8443")...),
		"keys where all can read":         flag("certificate_keys_readable|--session-secret", "--domain", "signal.example.org", "--redis-host", "localhost"),
		"key of another certificate":      flag("--tls-cert|soon/key.pem|does not match", "--tls-cert", filepath.Join(dir, "good/cert.pem"), "--tls-key", filepath.Join(dir, "soon/key.pem")),
		"one relay port":                  flag("--turn-max-port 50000|serve 1 |open more", "--turn-min-port", "50000", "--turn-max-port", "50000"),
		"relay ports the wrong way":       flag("--turn-min-port|60000|50000", "--turn-min-port", "60000", "--turn-max-port", "50000"),
		"TURN among the relay ports":      flag("--turn-port 50000|choose --turn-min-port", "--turn-port", "50000"),
		"external IPv6 without relays":    flag("--turn-external-ip|--turn-relay-ip 192.0.2.1", "--turn-external-ip", "2001:db8::1", "--turn-relay-ip", "192.0.2.1"),
		"STUN server that nobody asks":    flag("--turn-external-stun|stun.example.org:3478|198.51.100.7", "--turn-external-stun", "stun.example.org:3478", "--turn-external-ip", "198.51.100.7"),
		"auto without anybody to ask":     flag("--turn-external-stun|auto", "--turn-external-ip", "auto"),
		"CIDR with bits beyond":           flag("--turn-allow-peer|192.168.1.1/16|192.168.0.0/16", "--turn-allow-peer", "192.168.1.1/16"),
		"static user without a password":  flag("--turn-users|name:password", "--turn-users", "alice"),
		"static user that is there twice": silent(flag("--turn-users|alice|twice", "--turn-users", "alice:xyzzy,alice:plugh"), "xyzzy"),
		"bandwidth in the wrong unit":     flag("--turn-bandwidth|500|bytes a second", "--turn-bandwidth", "500"),
		"quota for one":                   flag("--turn-user-quota|32|--turn-total-quota 20", "--turn-total-quota", "20"),
		"external TURN without secret":    flag("--turn-url|turn:turn.example.org|set its shared secret", "--turn-enabled=false", "--turn-url", "turn:turn.example.org"),
		"one port and another":            flag("--server-port|8443|--one-port 443", "--turn-listen", "127.0.0.1", "--one-port", "443", "--server-port", "8443"),
		"one port and another of TURN":    flag("--turn-tls-port|5350|--one-port 443", "--turn-listen", "127.0.0.1", "--one-port", "443", "--turn-tls-port", "5350"),
		"one port without TURN":           flag("--one-port|443|use --server-port", "--turn-listen", "127.0.0.1", "--one-port", "443", "--turn-enabled=false"),
		"one port at an address of HTTP":  flag("--server-host|192.0.2.1|--turn-listen 0.0.0.0", "--one-port", "443", "--server-host", "192.0.2.1"),
		"PROXY header of no address":      flag("--proxy-protocol|lb.example.org|CIDR", "--proxy-protocol", "lb.example.org"),
		"PROXY headers from everywhere":   flag("--proxy-protocol|0.0.0.0/0|name the proxies alone", "--proxy-protocol", "0.0.0.0/0", "--auth-secret", authSecret),
		"HTTP on the port of TURN":        flag("--server-port|3478|--turn-port", "--server-port", "3478"),
		"metrics on the port of HTTP":     flag("--server-port|9090|--admin-addr", "--server-port", "9090"),
		"metrics for everybody":           flag("--admin-token|required|0.0.0.0:9090", "--admin-addr", "0.0.0.0:9090"),
		"address in brackets":             flag("--server-host|[::1]|write ::1", "--server-host", "[::1]"),
		"address with a port":             flag("--server-host|0.0.0.0:80|write 0.0.0.0", "--server-host", "0.0.0.0:80"),
		"relays at one in brackets":       flag("--turn-relay-ip|[2001:db8::1]|write 2001:db8::1", "--turn-relay-ip", "[2001:db8::1]"),
		"listener with a port":            flag("--turn-listen|192.0.2.1:3478|write 192.0.2.1", "--turn-listen", "192.0.2.1:3478"),
		"metrics at bare IPv6":            flag("--admin-addr|::1:9090|[::1]:9090", "--admin-addr", "::1:9090"),
		"port below all":                  flag("--server-port|-5|0-65535", "--server-port", "-5"),
		"port with an exponent":           flag(`--server-port|"1e3"|such as 8080`, "--server-port", "1e3"),
		"size with a unit":                flag(`--max-queue-bytes|"10MB"|without a unit, such as 1048576`, "--max-queue-bytes", "10MB"),
		"memory with a unit":              flag(`--max-memory|"512MiB"|without a unit`, "--max-memory", "512MiB"),
		"time below zero":                 flag(`--read-timeout|"-5s"|negative`, "--read-timeout", "-5s"),
		"time in days":                    flag(`--drain-timeout|"1d"|1m30s`, "--drain-timeout", "1d"),
		"level in capitals":               flag(`--log-level|"INFO"|did you mean info`, "--log-level", "INFO"),
		"policy misspelt":                 flag(`--state-outage|"lokal"|did you mean local`, "--state-outage", "lokal"),
		"TURN over TLS among the relays":  flag("--turn-tls-port 50000|choose --turn-min-port", append(tls("good"), "--turn-tls-port", "50000", "--turn-public-host", "localhost")...),
		"the one port among the relays":   flag("--one-port 50000|choose --turn-min-port", "--turn-listen", "127.0.0.1", "--one-port", "50000"),
		"TURN and its TLS on one port":    flag("--turn-tls-port|3478|--one-port", "--turn-tls-port", "3478"),
		"the one port and metrics":        flag("--one-port|9090|--admin-addr", "--turn-listen", "127.0.0.1", "--one-port", "9090"),
		"proxies with bits beyond":        flag("--trusted-proxies|10.1.2.3/8|10.0.0.0/8", "--trusted-proxies", "10.1.2.3/8", "--auth-secret", authSecret),
		"PROXY sources with bits beyond":  flag("--proxy-protocol|10.1.2.3/8|10.0.0.0/8", "--proxy-protocol", "10.1.2.3/8", "--auth-secret", authSecret),
		"fewer keys than certificates":    flag("--tls-cert|2, and 1 in --tls-key|same order", "--tls-cert", "a.pem,b.pem", "--tls-key", "a.key"),
		"certificate is a directory":      flag("--tls-cert|good: is a directory|name the file", "--tls-cert", filepath.Join(dir, "good"), "--tls-key", filepath.Join(dir, "good/key.pem")),
		"certificate and key swapped":     flag("--tls-cert|good/key.pem|fullchain.pem", "--tls-cert", filepath.Join(dir, "good/key.pem"), "--tls-key", filepath.Join(dir, "good/cert.pem")),
		"certificate in binary":           flag("--tls-cert|cert.der|openssl x509", "--tls-cert", filepath.Join(dir, "cert.der"), "--tls-key", filepath.Join(dir, "good/key.pem")),
		"key that is encrypted":           flag("--tls-key|encrypted.pem|passphrase", "--tls-cert", filepath.Join(dir, "good/cert.pem"), "--tls-key", filepath.Join(dir, "encrypted.pem")),
		"certificate for a day":           flag("--tls-cert|day/cert.pem|renew", append(tls("day"), "--turn-public-host", "localhost")...),
		"credentials for a second":        flag("--turn-ttl|1s|at least 30s", "--turn-ttl", "1"),
		"HSTS without HTTPS":              flag("--hsts|1h|--tls-cert", "--hsts", "3600"),
		"short token":                     silent(flag("--admin-token|5 characters|at least 16", "--admin-token", "xyzzy"), "xyzzy"),
		"password with a line break":      silent(env("--redis-password|the environment|white space|leave it out", "REDIS_HOST=localhost", "REDIS_PASSWORD=xyzzyxyzzyxyzzyxyzzy\n"), "xyzzy"),
		"two ways to Redis":               env("--redis-host|--redis-url|leave one", "REDIS_URL=redis://127.0.0.1:1", "REDIS_HOST=127.0.0.1"),
		"password beside the URL":         silent(env("--redis-password|--redis-url|leave one", "REDIS_URL=redis://127.0.0.1:1", "REDIS_PASSWORD=xyzzy"), "xyzzy"),
		"Redis URL with no such port":     silent(flag("--redis-url|redis://", "--redis-url", "redis://:xyzzy@redis:99999"), "xyzzy"),
		"tab in the file":                 file("--config|line 2|not tabs", "turn-users:\n\t- alice:wonderland\n"),
		"star in the file":                file("--config|alphabetic|quotation marks", "allowed-origins: *\n"),
		"file that is not UTF-8":          file("--config|not UTF-8", "turn-realm: caf\xe9\n"),
		"two documents in the file":       file("--config|---|leave that line out", "server-port: 8080\n---\nserver-port: 8081\n"),
		"settings within another":         file("turn|line 1|as in turn-port", "turn:\n  port: 3478\n"),
		"list for one value":              file("server-port|line 1|not a list", "server-port: [8080, 8081]\n"),
		"list for a secret of one":        silent(file("redis-password|line 1|not a list", "redis-password: [xyzzy, plugh]\n"), "xyzzy"),
		"mark at the beginning":           file("server-prot|line 1|did you mean server-port", "\ufeffserver-prot: 8080\n"),
		"key in capitals":                 file("Turn-Port|line 1|did you mean turn-port", "Turn-Port: 3478\n"),
		"shell in the file":               file("--config|line 1|server-port: 8080", "SERVER_PORT=8080\n"),
		"name to bind to":                 flag("--server-host|www.example.org|IP address", "--server-host", "www.example.org"),
	}
}

// authSecret closes a server behind proxies, which else is an open relay, too.
const authSecret = "a secret with which tokens are signed"

// TestEveryWrongSettingHasOneMessage makes each mistake alone.
func TestEveryWrongSettingHasOneMessage(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	for name, valid := range map[string][2]time.Time{
		"good": {now.Add(-time.Hour), now.AddDate(0, 3, 0)}, "soon": {now.AddDate(0, -2, 0), now.AddDate(0, 0, 3)},
		"day": {now, now.AddDate(0, 0, 1)}, "ended": {now.AddDate(0, -2, 0), now.AddDate(0, -1, 0)}, "future": {now.AddDate(0, 1, 0), now.AddDate(0, 2, 0)},
	} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		systemtest.WriteCertificate(t, filepath.Join(dir, name), systemtest.CertificateBetween(t, valid[0], valid[1], "turn.example.org", "localhost"))
	}
	for name, content := range map[string][]byte{"cert.der": systemtest.Certificate(t, "localhost").Certificate[0],
		"encrypted.pem": pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("sealed")})} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all := wrongSettings(dir)
	if len(all) < 100 {
		t.Errorf("%d mistakes", len(all))
	}
	ownEnvironmentAlone(t)
	for name, wrong := range all {
		t.Run(name, func(t *testing.T) {
			lines := wrong.check(t)
			if len(lines) != 1 {
				t.Fatalf("%d messages: %q", len(lines), lines)
			}
			for _, part := range wrong.said {
				if !strings.Contains(lines[0], part) {
					t.Errorf("%q is not in %q", part, lines[0])
				}
			}
			if wrong.secret != "" && strings.Contains(lines[0], wrong.secret) {
				t.Errorf("a secret is in %q", lines[0])
			}
			if strings.Contains(lines[0], "strconv") || strings.Contains(lines[0], "flag provided") {
				t.Errorf("the words are of a library: %q", lines[0])
			}
		})
	}
}

func TestEveryWrongSettingIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "signal.yaml")
	if err := os.WriteFile(file, []byte("max-room-users: -1\nno-such-key: 1\nturn-realm: \"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TURN_MIN_PORT", "many")
	t.Setenv("READ_TIMEOUT", "soon")
	for _, test := range []struct {
		args  []string
		named []string
	}{
		{nil, []string{"turn-min-port", "read-timeout", "max-room-users", "no-such-key"}},
		{[]string{"--server-port", "abc", "--max-frame-bytes", "1", "--nonsense", "7", "--turn-max-port=99999", "--log-level", "loud"},
			[]string{"server-port", "max-frame-bytes", "nonsense", "turn-max-port", "log-level", "turn-min-port", "read-timeout", "max-room-users", "no-such-key"}},
	} {
		var said bytes.Buffer
		status := signal(t.Context(), t, &said, append([]string{"serve", "--config", file}, test.args...)...)
		if status != 1 {
			t.Errorf("%v: exit status %d", test.args, status)
		}
		for _, name := range test.named {
			if !strings.Contains(said.String(), name) {
				t.Errorf("%v: %s is not named in:\n%s", test.args, name, &said)
			}
		}
	}
}

func TestWrongValuesAreNamed(t *testing.T) {
	for _, args := range [][]string{
		{"--server-port", "70000", "--turn-min-port", "70000", "--drain-timeout", "0", "--log-format", "xml"},
		{"stray"},
		{"--config", "/does/not/exist"},
	} {
		var said bytes.Buffer
		if status := signal(t.Context(), t, &said, append([]string{"serve"}, args...)...); status != 1 {
			t.Errorf("%v: exit status %d", args, status)
		}
		for _, a := range args {
			if (strings.HasPrefix(a, "--") || a == "stray") && !strings.Contains(said.String(), a) {
				t.Errorf("%s is not named in:\n%s", a, &said)
			}
		}
	}
}

// signal runs the program until ctx ends, which asks it to stop, and returns its exit status.
func signal(ctx context.Context, t *testing.T, out io.Writer, args ...string) int {
	t.Helper()
	cmd := exec.CommandContext(ctx, systemtest.Executable(t), args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	_ = cmd.Run() // Its status says it.
	return cmd.ProcessState.ExitCode()
}

// ownEnvironmentAlone takes away what this process was given for tests.
func ownEnvironmentAlone(t *testing.T) {
	systemtest.Executable(t) // It may be one of those.
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "SIGNAL_") {
			t.Setenv(name, "")
			_ = os.Unsetenv(name)
		}
	}
}

// check returns the messages of serve --check about the mistake.
func (w wrongSetting) check(t *testing.T) []string {
	t.Helper()
	for _, pair := range w.env {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
	args := []string{"serve", "--check"}
	if !slices.Contains(w.args, "--server-host") {
		args = append(args, "--server-host", "127.0.0.1")
	}
	if w.file != "" {
		path := filepath.Join(t.TempDir(), "signal.yaml")
		if err := os.WriteFile(path, []byte(w.file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	var out bytes.Buffer
	status := signal(t.Context(), t, &out, append(args, w.args...)...)
	var said []string
	for line := range strings.Lines(out.String()) {
		if status == 1 || strings.HasPrefix(line, "warning") {
			said = append(said, strings.TrimSpace(line))
		}
	}
	if len(said) > 1 && strings.HasPrefix(said[0], "signal: wrong settings") {
		said = said[1:] // It introduces them.
	}
	return said
}

// TestCheck reads settings and files as serve does, says what is good, and starts nothing.
func TestCheck(t *testing.T) {
	certFile, keyFile := systemtest.WriteCertificate(t, t.TempDir(), systemtest.Certificate(t, "localhost"))
	t.Setenv("TURN_SECRET", "a-secret-that-is-not-said")
	var out bytes.Buffer
	if status := signal(t.Context(), t, &out, "serve", "--check", "--tls-cert", certFile, "--tls-key", keyFile); status != 0 {
		t.Errorf("exit status %d", status)
	}
	for _, part := range []string{"ok ", "the command line sets tls-cert, tls-key", "the environment sets turn-secret", "in memory", "https://127.0.0.1:8080",
		"49152-65535", "localhost, until 20", "serves https,turn"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is missing in:\n%s", part, &out)
		}
	}
	if strings.Contains(out.String(), "not-said") {
		t.Errorf("a secret is said:\n%s", &out)
	}
}

// TestNotesAreLogged starts nodes about which something is to be told.
func TestNotesAreLogged(t *testing.T) {
	ownEnvironmentAlone(t)
	for _, format := range []string{"json", "text"} {
		ctx, stop := context.WithCancel(t.Context())
		log := new(systemtest.Log)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			signal(ctx, t, log, append(slices.Clone(systemtest.Serve), "--server-host", "0.0.0.0", "--log-format", format)...)
		}()
		systemtest.Eventually(t, "the node serves", func() bool { return strings.Contains(log.String(), "serving") })
		stop()
		<-ended
		want := map[string]string{"no_tls": "WARN", "open_relay": "WARN", "generated_secret": "WARN", "private_relay": "WARN", "private_peers_denied": "INFO", "alone": "INFO"}
		got := map[string]string{}
		for line := range strings.Lines(log.String()) {
			var record struct{ Level, Code, Msg string }
			if format == "json" && json.Unmarshal([]byte(line), &record) == nil && record.Code != "" {
				got[record.Code] = record.Level
			}
			for code, level := range want {
				if format == "text" && strings.Contains(line, "level="+level) && strings.Contains(line, "code="+code) {
					got[code] = level
				}
			}
		}
		for code, level := range want {
			if got[code] != level {
				t.Errorf("%s: %s is logged as %q, want %s", format, code, got[code], level)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %v", format, got)
		}
	}
}
