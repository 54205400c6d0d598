package signal

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"

	"cline-meet/signal/signal/auth"
	"cline-meet/signal/signal/client"
)

func TestTokenIsRenewedInPlace(t *testing.T) {
	s := start(t, withTokens)
	p := s.dial(bearer(token(t, jwt.MapClaims{"rooms": "r", "relay": nil, "exp": time.Now().Add(time.Minute).Unix()})))
	p.join("r")
	expires := func(m client.Message) (left int) {
		var doc struct {
			Left int `json:"auth_expires_in"`
		}
		if err := m.Document(&doc); err != nil {
			t.Fatal(err)
		}
		return doc.Left
	}
	if left := expires(p.hub); left < 1 || left > 60 {
		t.Errorf("%s says that it expires in %d s", p.hub.Raw, left)
	}
	renew := func(id, token string) { p.say(fmt.Sprintf(`{"type":"auth","id":%q,"data":{"token":%q}}`, id, token)) }
	for _, tt := range []struct {
		name, token string
		code        int
	}{
		{"somebody else's", token(t, jwt.MapClaims{"sub": "bob"}), 403},
		{"for other rooms", token(t, jwt.MapClaims{"rooms": "x"}), 403},
		{"expired", token(t, jwt.MapClaims{"exp": 1}), 401},
		{"a wrong key's", tokenBy(t, strings.ToUpper(authSecret), nil), 401},
		{"empty", "", 401},
	} {
		renew(tt.name, tt.token)
		if id, _ := p.expectError(tt.code); id != tt.name {
			t.Errorf("%s: answer to %s", tt.name, id)
		}
	}
	for _, data := range []string{`7`, `{"token":7}`, `"x"`} {
		p.say(`{"type":"auth","data":` + data + `}`)
		p.expectError(400)
	}
	renew("good", token(t, jwt.MapClaims{"rooms": "*"}))
	fresh := p.expect("stun_config")
	if _, credentials := offeredTo(t, fresh); !credentials || expires(fresh) < 3000 {
		t.Errorf("a fresh token is answered with %s", fresh.Raw)
	}
	if p.expect("ack").ID != "good" {
		t.Error("the ack is for another")
	}
	p.join("x") // Which only the fresh one allows.
	inString, _ := json.Marshal(fmt.Sprintf(`{"token":%q}`, token(t, nil)))
	p.say(`{"type":"auth","data":` + string(inString) + `}`)
	p.expect("stun_config")

	open := start(t).dial(nil)
	open.say(`{"type":"auth","id":"1","data":{"token":"x"}}`)
	open.expectError(400)
}

// expire has the claims of a client end.
func (s *testServer) expire(p *peer) {
	who := s.participant(p.user)
	who.mu.Lock()
	claims := *who.claims
	who.mu.Unlock()
	claims.Expires = time.Now()
	who.trust(&claims)
}

// TestTokenExpires lets the token of one of two in a room expire.
func TestTokenExpires(t *testing.T) {
	s := start(t, withTokens)
	p, q := s.dial(bearer(token(t, nil))), s.dial(bearer(token(t, nil)))
	p.join("r")
	q.join("r")
	s.expire(p)
	var closed *websocket.CloseError
	if err := p.ended(); !errors.As(err, &closed) || closed.Code != int(closeExpired) || !errors.Is(err, client.ErrTokenExpired) {
		t.Errorf("ended with %v", err)
	}
	q.expect("user_left")
	if n := count(s, "signal_auth_refusals_total", "expired"); n != 1 {
		t.Errorf("%v were counted as expired", n)
	}
}

// TestExpiryOverTime lets the wheel visit a client whose token lasts ten minutes and some seconds.
func TestExpiryOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := socketless(t, &slowState{})
		s.cfg.ICE = func(string, string) ICEConfig { return ICEConfig{} }
		s.sessions = newSessions(nil)
		p := s.place("r", member("a", "near", 1))
		p.conn.rate, p.conn.bound.shown = rate.NewLimiter(1, 1), true
		end := time.Now().Add(10*time.Minute + 7*time.Second)
		p.trust(&auth.Claims{Subject: "a", Expires: end})
		if first := heard(p); len(first) != 1 || !strings.Contains(first[0], `"auth_expires_in":607`) {
			t.Errorf("told %q", first)
		}
		told := time.Time{}
		for time.Until(end) > 0 {
			time.Sleep(min(s.wheel.turn, time.Until(end)-1))
			p.visit()
			if texts := heard(p); len(texts) > 0 && strings.Contains(texts[len(texts)-1], `"auth_expires_in"`) {
				if !told.IsZero() {
					t.Errorf("told again with %v to go", time.Until(end))
				}
				told = time.Now()
			}
			if time.Until(end) == 1 {
				break
			}
		}
		if left := end.Sub(told); left < expiryNotice || left > expiryNotice+s.wheel.turn {
			t.Errorf("told with %v to go", left)
		}
		if isOver(p) {
			t.Error("it has ended before its time")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		last := heard(p)
		if closing := closeExpired.frame("the token has expired"); len(last) != 1 || last[0] != string(closing) || !isOver(p) {
			t.Errorf("at the end it heard %q", last)
		}
	})
}

func isOver(p *participant) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}

// TestFreshTokenOutlivesTheOld has a token that expires in a minute, and a fresh one in its place.
func TestFreshTokenOutlivesTheOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := socketless(t, &slowState{})
		s.cfg.ICE = func(string, string) ICEConfig { return ICEConfig{} }
		s.sessions = newSessions(nil)
		p := s.place("r", member("a", "near", 1))
		p.conn.rate = rate.NewLimiter(1, 1)
		p.trust(&auth.Claims{Subject: "a", Expires: time.Now().Add(10 * time.Second)})
		p.trust(&auth.Claims{Subject: "a", Expires: time.Now().Add(time.Hour)})
		for range 10 {
			time.Sleep(s.wheel.turn)
			p.visit()
		}
		if isOver(p) {
			t.Errorf("it has ended: %q", heard(p))
		}
	})
}
