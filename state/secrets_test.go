package state

import (
	"slices"
	"testing"
)

// TestSecretsReachTheirUsers sets secrets before and after the parts that use them are there.
func TestSecretsReachTheirUsers(t *testing.T) {
	s := NewSecrets()
	own := s.Provide(TURNSecret, nil, true)[0]
	s.Set(TURNSecret, []string{"theirs"})
	var turn, session []string
	s.Use(TURNSecret, func(values []string) { turn = values })
	s.Use(SessionSecret, func(values []string) { session = values })
	if !slices.Equal(turn, []string{"theirs", own}) {
		t.Errorf("set before its user was there: %q", turn)
	}
	if session != nil {
		t.Errorf("never set: %q", session)
	}
	agreed := []string{"newest", own, "theirs"}
	s.Set(TURNSecret, agreed)
	s.Set(SessionSecret, []string{"cookies"})
	if !slices.Equal(turn, agreed) || !slices.Equal(session, []string{"cookies"}) {
		t.Errorf("set later: %q, %q", turn, session)
	}
	s.Set("unknown", []string{"a"}) // Of a newer node.
}
