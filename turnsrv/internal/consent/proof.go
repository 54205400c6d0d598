package consent

import (
	"slices"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// heed learns from a STUN message that passes. It is called with mu held.
func (g *Gate) heed(f *Flow, p *peer, m *message, payload []byte, now moment) claim {
	switch {
	case m.kind.Class == stun.ClassRequest && f.direction == Out:
		if m.isCheck() {
			g.drafts.add(payload)
		}
		return g.called(p, m, now)
	case m.kind.Class == stun.ClassRequest:
		g.asks(p, m)
	case m.kind.Class == stun.ClassSuccessResponse && f.direction == Out:
		if m.isSigned() && g.hasAsked(p, m.id) {
			p.open(In, now)
		}
	case m.kind.Class == stun.ClassSuccessResponse:
		return g.answered(f, p, m, now)
	}
	return claim{}
}

// asks notes a check of a peer.
func (g *Gate) asks(p *peer, m *message) {
	memory := &g.others
	if p.called {
		memory = &g.asked
	}
	memory.add(maxAsked, entry{p, m.id, ""})
}

// called notes a check of the client. Who has to fetch the password that will sign the answer has the time until then.
func (g *Gate) called(p *peer, m *message, now moment) claim {
	p.called = true
	e := entry{p, m.id, ""}
	if g.rules.Mode == Room && !p.passes(Out, now) {
		e.ufrag = string(m.ufrag())
	}
	g.checks.add(maxChecks, e)
	return claim{ufrag: e.ufrag}
}

// answered handles the answer to a check of the client: it is a proof, or renews one, whatever passwords the room has by then. An answer that
// names the peer is the client's own, sent back.
func (g *Gate) answered(f *Flow, p *peer, m *message, now moment) claim {
	e := g.checks.find(p, m.id)
	switch {
	case e == nil || !m.answers() || m.mapped == wire.Unmapped(f.peer):
	case g.rules.Mode == Room && !p.passes(Out, now):
		return claim{p, m.id, e.ufrag}
	default:
		g.prove(p, m.id, now)
		e.forget()
	}
	return claim{}
}

// claim is what has to be asked of others in Room: the passwords of a ufrag, and for an answer, which has a peer, whether one signed it.
type claim struct {
	peer  *peer
	id    transaction
	ufrag string
}

// settle asks without a lock, for it is not known which ones that takes.
func (g *Gate) settle(c claim, payload []byte, now moment) {
	passwords := g.rules.Passwords(c.ufrag)
	if c.peer == nil || len(passwords) == 0 {
		return
	}
	signed := signedByOne(payload, passwords)
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.checks.find(c.peer, c.id)
	if e == nil {
		return
	}
	if signed {
		g.prove(c.peer, c.id, now)
	}
	e.forget() // A wrong one must not be tried again and again.
}

// signedByOne says whether the integrity of a message is that of one of the passwords.
func signedByOne(packet []byte, passwords [][]byte) bool {
	m, err := wire.Decode(packet)
	return err == nil && slices.ContainsFunc(passwords, func(p []byte) bool { return stun.MessageIntegrity(p).Check(m) == nil })
}
