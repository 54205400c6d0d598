package setting

import (
	"flag"
	"slices"
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	names := []string{"turn-port", "turn-secret", "tls-key", "check", "redis-host"}
	for text, want := range map[string]string{
		"turn-prot": "turn-port", "turn-secert": "turn-secret", "turn-secre": "turn-secret", "turnsecret": "turn-secret", "urn-sceret": "turn-secret",
		"tls-kay": "tls-key", "tls-kyo": "", "chekc": "check", "chk": "", "redis": "", "": "",
	} {
		if got := Nearest(text, names); got != want {
			t.Errorf("%q is taken for %q, want %q", text, got, want)
		}
	}
	if got := DidYouMean("--", "redis", names); got != "; did you mean --redis-host?" {
		t.Errorf("the beginning of a name: %q", got)
	}
}

func TestSpaced(t *testing.T) {
	for name, value := range map[string]string{"THE_HOST": "here\n", "THE_NAMES": " a, b\n", "THE_COUNT": " 3 ", "THE_POLICY": "local"} {
		t.Setenv(name, value)
	}
	o := defaults()
	table := o.table()
	if p := table.Reread(flag.NewFlagSet("x", flag.ContinueOnError), nil); p.Err() != nil {
		t.Fatal(p)
	}
	if notes := table.Spaced(); len(notes) != 1 || !strings.HasPrefix(notes[0].Text, "--the-host, from the environment, ") || strings.Contains(notes[0].Text, "here") {
		t.Errorf("got %v", notes)
	}
}

func TestNotAnAddress(t *testing.T) {
	for text, want := range map[string]string{
		"[::1]": "write ::1, without", "[::1]:80": "write ::1, the port", "192.0.2.1:80": "write 192.0.2.1, the port", "localhost:80": "such as", "": "such as", "[]": "such as",
	} {
		if err := NotAnAddress(text); !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestNoteProxies(t *testing.T) {
	var notes Notes
	notes.NoteProxies("proxies", []string{"10.0.0.0/8", "192.0.2.1", "10.1.2.3/8", "0.0.0.0/0", "::/0", "2001:db8::1/32"})
	var codes []string
	for _, note := range notes {
		codes = append(codes, note.Code)
	}
	if want := []string{"bits_beyond_length", "trusts_everybody", "trusts_everybody", "bits_beyond_length"}; !slices.Equal(codes, want) {
		t.Errorf("got %v, want %v", codes, want)
	}
}

func TestDistance(t *testing.T) {
	for pair, want := range map[[2]string]int{
		{"", ""}: 0, {"a", ""}: 1, {"", "ab"}: 2, {"abc", "abc"}: 0, {"abc", "abd"}: 1, {"abc", "acb"}: 1, {"abc", "bc"}: 1, {"abcd", "badc"}: 2, {"kitten", "sitting"}: 3,
	} {
		if got := distance(pair[0], pair[1]); got != want || distance(pair[1], pair[0]) != want {
			t.Errorf("%q and %q are %d apart, want %d", pair[0], pair[1], got, want)
		}
	}
}

func TestStrangers(t *testing.T) {
	var host, port, url string
	table := Table{Text("redis-host", &host, ""), Text("redis-port", &port, ""), Text("turn-url", &url, ""), Text("config", &url, "").From("SIGNAL_CONFIG")}
	environment := []string{"REDIS_HOST=a", "SIGNAL_CONFIG=b", "HOME=/root", "REDIS_HSOT=a", "TURN_CERT=x", "redis_port=6379", "STATE_DIRECTORY=/var/lib/signal",
		// What Kubernetes and Docker set for services of these names.
		"REDIS_SERVICE_HOST=10.0.0.1", "REDIS_SERVICE_PORT_HTTP=1", "REDIS_PORT_6379_TCP_ADDR=10.0.0.1", "SIGNAL_PORT=tcp://10.0.0.1:80"}
	var got []string
	for _, note := range table.Strangers(environment) {
		if note.Code != "unknown_variable" {
			t.Errorf("code %s", note.Code)
		}
		got = append(got, note.Text)
	}
	want := []string{"REDIS_HSOT is no setting: did you mean REDIS_HOST?", "TURN_CERT is no setting: signal serve --help lists them all",
		"redis_port is no setting: did you mean REDIS_PORT?"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
