package consent

import (
	"bytes"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/turnsrv/internal/wire"

	"github.com/pion/stun/v2"
)

// again has the gate's checks sent by way of the scene, and calls heard with each.
func again(s **scene, heard func(check []byte)) func(*Rules) {
	return func(r *Rules) {
		r.Again = func(peer netip.AddrPort, check []byte) {
			(*s).want("a check that is sent again", Passed, Out, peer, check)
			heard(check)
		}
	}
}

// TestQuietAgentsKeepTheirConsent has agents that send no checks while one of them sends something now and then.
func TestQuietAgentsKeepTheirConsent(t *testing.T) {
	for what, say := range map[string]func(*scene) Verdict{
		"data":                 func(s *scene) Verdict { return s.pass(Out, peerAddr, rtp) },
		"the peer's data":      func(s *scene) Verdict { return s.pass(In, peerAddr, rtp) },
		"keepalives":           func(s *scene) Verdict { return s.pass(Out, peerAddr, keepalive(stun.Fingerprint)) },
		"the peer's keepalive": func(s *scene) Verdict { return s.pass(In, peerAddr, keepalive(stun.Fingerprint)) },
	} {
		for _, every := range []time.Duration{time.Second, 25 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				var s *scene
				s = newScene(t, again(&s, func(check []byte) {
					asked++
					go s.want("answer", Passed, In, peerAddr, success(check[8], relayAddr))
				}))
				s.prove(peerAddr)
				const long = 10 * time.Minute
				for range long / every {
					time.Sleep(every)
					if got := say(s); got != Passed {
						t.Fatalf("%s every %v: %q", what, every, got)
					}
					synctest.Wait()
				}
				if most := int(long / askAfter); asked == 0 || asked > most {
					t.Errorf("%s every %v: asked %d times, want %d at most", what, every, asked, most)
				}
			})
		}
	}
}

// TestConsentIsAskedForUntilItLapses has a peer that answers no more.
func TestConsentIsAskedForUntilItLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked [][]byte
		var s *scene
		s = newScene(t, again(&s, func(check []byte) { asked = append(asked, check) }))
		first := check(1)
		s.want("check", Passed, Out, peerAddr, first)
		s.want("a check that stays without answer", Passed, Out, peerAddr, check(2))
		s.want("answer", Passed, In, peerAddr, success(1, relayAddr))
		out := s.gate.Flow(Out, peerAddr)
		for at := range 2 * Life / time.Second {
			want := Passed
			if at*time.Second >= Life {
				want = Lapsed
			}
			if got := out.Admit(rtp, time.Now()); got != want {
				t.Errorf("after %d s: %q, want %q", at, got, want)
			}
			time.Sleep(time.Second)
		}
		if want := int((Life - askAfter) / askEvery); len(asked) != want {
			t.Errorf("asked %d times, want %d", len(asked), want)
		}
		for _, check := range asked {
			if !bytes.Equal(check, first) {
				t.Errorf("asked by %x, want %x", check, first)
			}
		}
	})
}

// TestOnlyWhoConsentedIsAsked has data pass in that waits for no consent, and an echo in the place of a peer.
func TestOnlyWhoConsentedIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *scene
		s = newScene(t, again(&s, func(check []byte) { s.pass(In, peerAddr, check) }))
		s.want("the peer's check", Passed, In, otherPort, check(1))
		s.want("answer", Passed, Out, otherPort, success(1, otherPort))
		s.prove(peerAddr)
		for range 3 {
			time.Sleep(Life/3 - 1)
			s.want("data of who has not", Passed, In, otherPort, rtp)
			s.want("data of the echo", Passed, In, peerAddr, rtp)
		}
		time.Sleep(3 * time.Nanosecond)
		s.want("data to the echo", Lapsed, Out, peerAddr, rtp)
	})
}

// TestDrafts keeps the latest checks that are not too long.
func TestDrafts(t *testing.T) {
	var d drafts
	for n := range byte(3 * maxDrafts) {
		d.add(check(n))
	}
	d.add(check(250, stun.NewSoftware(string(make([]byte, maxDraft)))))
	for n := range byte(251) {
		kept := 2*maxDrafts <= n && n < 3*maxDrafts
		if got := d.find(transaction{n}); kept != bytes.Equal(got, check(n)) || !kept && got != nil {
			t.Errorf("draft %d is %x", n, got)
		}
	}
}

func TestConsentLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.prove(peerAddr)
		out := s.gate.Flow(Out, peerAddr)
		if out.Admit(rtp, time.Now()) != Passed {
			t.Fatal("there is no consent")
		}
		time.Sleep(Life - 1)
		if got := out.Admit(rtp, time.Now()); got != Passed {
			t.Errorf("just before: %q", got)
		}
		time.Sleep(time.Nanosecond)
		if got := out.Admit(rtp, time.Now()); got != Lapsed {
			t.Errorf("then: %q", got)
		}
		s.want("data of the peer", Lapsed, In, peerAddr, rtp)
		s.want("the peer's check renews nothing that is over", Passed, In, peerAddr, check(1))
		s.want("data", Lapsed, Out, peerAddr, rtp)
		s.prove(peerAddr)
		s.want("data", Passed, Out, peerAddr, rtp)
	})
}

// TestNothingButAnswersRenewsConsent has all sent that passes, 20 s apart, the pings and the keepalives of agents and what an echo makes of them.
func TestNothingButAnswersRenewsConsent(t *testing.T) {
	ping, pong := stun.NewType(0x80, stun.ClassRequest), stun.NewType(0x80, stun.ClassSuccessResponse)
	short := wire.SetValue(attrIntegrity32, 1, 2, 3, 4)
	sent := func(kind stun.MessageType, n byte) []byte {
		return stun.MustBuild(stun.NewTransactionIDSetter([12]byte{n}), kind, short).Raw
	}
	echo := func(s *scene, packet []byte) {
		if s.pass(Out, peerAddr, packet) == Passed {
			s.pass(In, peerAddr, packet)
		}
	}
	for what, idle := range map[string]func(*scene, byte){
		"the client's checks":           func(s *scene, n byte) { s.pass(Out, peerAddr, check(n)) },
		"the client's data":             func(s *scene, _ byte) { s.pass(Out, peerAddr, rtp) },
		"the peer's data":               func(s *scene, _ byte) { s.pass(In, peerAddr, rtp) },
		"the peer's checks":             func(s *scene, n byte) { s.pass(In, peerAddr, checkOf("client:peer", n)) },
		"the client's keepalives":       func(s *scene, _ byte) { s.pass(Out, peerAddr, keepalive(stun.Fingerprint)) },
		"the peer's keepalives":         func(s *scene, _ byte) { s.pass(In, peerAddr, keepalive(stun.Fingerprint)) },
		"answers to nothing":            func(s *scene, n byte) { s.pass(In, peerAddr, success(n, relayAddr)) },
		"the same answer":               func(s *scene, _ byte) { s.pass(In, peerAddr, success(200, relayAddr)) },
		"an echo of checks":             func(s *scene, n byte) { echo(s, check(n)) },
		"an echo of the peer's checks":  func(s *scene, n byte) { echo(s, checkOf("client:peer", n)) },
		"an echo of keepalives":         func(s *scene, _ byte) { echo(s, keepalive(stun.Fingerprint)) },
		"an echo of checks and answers": func(s *scene, n byte) { echo(s, check(n)); echo(s, success(n, peerAddr)) },
		"an echo of forged answers":     func(s *scene, n byte) { echo(s, check(n)); echo(s, success(n, relayAddr)) },
		"an echo of pings":              func(s *scene, n byte) { echo(s, sent(ping, n)); echo(s, sent(pong, n)) },
		"answers of another port":       func(s *scene, n byte) { s.pass(Out, peerAddr, check(n)); s.pass(In, otherPort, success(n, relayAddr)) },
		"answers that nobody signed": func(s *scene, n byte) {
			s.pass(Out, peerAddr, check(n))
			s.pass(In, peerAddr, stun.MustBuild(stun.NewTransactionIDSetter([12]byte{n}), stun.BindingSuccess, wire.SetXORAddress(stun.AttrXORMappedAddress, relayAddr)).Raw)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t)
			s.prove(peerAddr)
			for n := range byte(3) {
				time.Sleep(Life / 3)
				idle(s, n)
			}
			s.want(what, Lapsed, Out, peerAddr, rtp)
		})
	}
}

func TestAnswersRenewConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.prove(peerAddr)
		for n := range byte(20) {
			time.Sleep(Life - time.Second)
			s.want("check", Passed, Out, peerAddr, check(n))
			s.want("answer", Passed, In, peerAddr, success(n, relayAddr))
		}
		s.want("data", Passed, Out, peerAddr, rtp)
		s.want("data of the peer", Passed, In, peerAddr, rtp)
	})
}

// keepalive is what an agent sends that does not ask again.
func keepalive(more ...stun.Setter) []byte {
	return stun.MustBuild(append([]stun.Setter{stun.TransactionID, stun.NewType(stun.MethodBinding, stun.ClassIndication)}, more...)...).Raw
}

// TestAnsweredLapses has a peer go on that the client no longer answers.
func TestAnsweredLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.want("check", Passed, In, peerAddr, check(1))
		s.want("answer", Passed, Out, peerAddr, success(1, peerAddr))
		time.Sleep(Life - 1)
		s.want("data", Passed, In, peerAddr, rtp)
		s.want("check", Passed, In, peerAddr, check(2))
		s.want("answer", Passed, Out, peerAddr, success(2, peerAddr))
		time.Sleep(Life - 1)
		s.want("data", Passed, In, peerAddr, rtp)
		time.Sleep(time.Nanosecond)
		s.want("data", Unproved, In, peerAddr, rtp)
	})
}
