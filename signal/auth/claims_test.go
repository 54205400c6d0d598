package auth

import (
	"reflect"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestClaims(t *testing.T) {
	d := newDoor(t, func(c *Config) { c.Secrets = []string{newSecret} })
	enter := func(more jwt.MapClaims) *Claims {
		c, err := d.Enter(t.Context(), tokenRequest(signed(t, jwt.SigningMethodHS256, []byte(newSecret), "", more)))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	end := time.Now().Add(time.Minute).Truncate(time.Second)
	c := enter(jwt.MapClaims{"exp": end.Unix(), "rooms": []string{"a", "team-*"}, "name": "Ann", "attributes": map[string]int{"x": 1},
		"publish": false, "moderate": true, "relay": true, "limits": map[string]any{"message_rate": 0.5, "message_burst": 2, "max_message_bytes": 3}})
	want := &Claims{Subject: "ann", Rooms: []string{"a", "team-*"}, Name: "Ann", Attributes: []byte(`{"x":1}`), Expires: end,
		Moderate: true, Relay: true, Limits: Limits{0.5, 2, 3}}
	if !c.Expires.Equal(end) {
		t.Errorf("expires at %v, want %v", c.Expires, end)
	}
	if c.Expires = end; !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	for room, allowed := range map[string]bool{"a": true, "ab": false, "team-": true, "team-1": true, "team": false, "*": false, "": false} {
		if c.Allows(room) != allowed {
			t.Errorf("room %q is allowed: %v", room, !allowed)
		}
	}
	if c := enter(jwt.MapClaims{"rooms": "b"}); !c.Allows("b") || c.Allows("a") || !c.Publish || c.Moderate || c.Relay {
		t.Errorf("a token that says little grants %+v", c)
	}
	if c := enter(jwt.MapClaims{"rooms": "*"}); !c.Allows("a") {
		t.Errorf("no room is allowed by a star")
	}
	if c := enter(jwt.MapClaims{"rooms": nil}); !c.Allows("a") {
		t.Errorf("a token without rooms allows none")
	}
}
