package service

import (
	"slices"
	"testing"
)

// TestDomainIsEnough derives ports and names from a domain, unless something else is said of them.
func TestDomainIsEnough(t *testing.T) {
	for _, test := range []struct {
		args                           []string
		one, web, plain, turn, turnTLS int
		host                           string
	}{
		{nil, 443, 443, 80, 443, 5349, "a.example.org"},
		{[]string{"--turn-enabled=false"}, -1, 443, 80, 3478, 5349, "a.example.org"},
		{[]string{"--server-port", "8443"}, -1, 8443, 80, 3478, 5349, "a.example.org"},
		{[]string{"--turn-port", "3479"}, -1, 443, 80, 3479, 5349, "a.example.org"},
		{[]string{"--one-port", "8443", "--http-port", "0"}, 8443, 8443, 0, 8443, 5349, "a.example.org"},
		{[]string{"--turn-public-host", "turn.example.org"}, 443, 443, 80, 443, 5349, "turn.example.org"},
	} {
		s := NewSettings()
		if err := s.Reread(slices.Concat([]string{"signal", "serve", "--domain", "a.example.org,b.example.org"}, test.args)).Err(); err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(); err != nil {
			t.Errorf("%v: %v", test.args, err)
		}
		got := []int{s.Edge.OnePort, s.Signal.Port, s.Certificate.HTTPPort, s.TURN.Port, s.TURN.TLSPort}
		if want := []int{test.one, test.web, test.plain, test.turn, test.turnTLS}; !slices.Equal(got, want) || s.TURN.PublicHost != test.host || !s.Signal.HTTPS {
			t.Errorf("%v: ports %v, want %v; host %s, HTTPS %v", test.args, got, want, s.TURN.PublicHost, s.Signal.HTTPS)
		}
	}
}
