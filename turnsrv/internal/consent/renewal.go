package consent

import (
	"math"
	"time"
)

// A consent begins and is renewed by one and the same thing, the peer's signed answer to a check of the client. But there are agents that
// send no checks while media flows: libnice sends indications, which nobody signs, old pion and webrtc-rs send nothing. So when a consent has
// grown old and something passes, the gate has a check sent again for the client: the last one that the peer has answered, byte by byte, as
// if the network had been slow with its first copy. Who still takes part in ICE answers it as it did (RFC 8489, section 6.3.1), and the client
// ignores an answer that it does not await. Who does not take part, such as an echo at the address that an agent has left, can never renew:
// neither what is sent nor what comes back is an answer that names another than the echo.
//
// With Room a renewal needs no password: a call outlives what the nodes know of a member who has left the room, and who answers without
// one takes part in ICE all the same, as with STUN.
const (
	// Life is how long a consent lasts after the peer's last answer: twice what RFC 7675 gives a sender, since the answers to the checks
	// that a gate has sent again may be lost.
	Life = 60 * time.Second

	// askAfter is how old a consent is when the gate asks for it, and askEvery how soon it asks again. Thus nobody is asked who is by itself,
	// as browsers are every few seconds.
	askAfter, askEvery = 20 * time.Second, 5 * time.Second

	// never is when peers are asked that have not consented.
	never = moment(math.MaxInt64)

	// maxDrafts is how many checks of the client a gate keeps whole until they are answered, some 300 ms of a paced agent, and maxDraft how
	// long one may be. Those of today's agents have a hundred bytes.
	maxDrafts, maxDraft = 16, 256
)

// prove lets data pass both ways, by the answer to the check with that id.
func (g *Gate) prove(p *peer, id transaction, now moment) {
	p.proved = true
	p.open(Out, now)
	p.open(In, now)
	p.due.Store(int64(now) + int64(askAfter))
	if check := g.drafts.find(id); check != nil {
		p.check = append(p.check[:0], check...)
	}
}

// isDue says whether a peer is to be asked for its consent.
func (p *peer) isDue(now moment) bool { return p.due.Load() <= int64(now) }

// renew asks the peer of a flow for its consent if that has grown old. It is called without a lock, since the check goes through the gate
// as the client's do.
func (g *Gate) renew(f *Flow, now moment) {
	if check := g.overdue(f.known, now); check != nil && g.rules.Again != nil {
		g.rules.Again(f.peer, check)
	}
}

// overdue returns the check that a peer is to be sent, or nil.
func (g *Gate) overdue(p *peer, now moment) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !p.passes(Out, now) || len(p.check) == 0 {
		p.due.Store(int64(never))
	}
	if !p.isDue(now) { // Another goroutine may have been faster.
		return nil
	}
	p.due.Store(int64(now) + int64(askEvery))
	return append([]byte(nil), p.check...)
}

// drafts holds the latest checks of the client as they were.
type drafts struct {
	kept [][]byte
	next int
}

// add keeps a check, unless it is too long.
func (d *drafts) add(check []byte) {
	if len(check) > maxDraft {
		return
	}
	if len(d.kept) < maxDrafts {
		d.kept = append(d.kept, nil)
	}
	d.kept[d.next] = append(d.kept[d.next][:0], check...)
	d.next = (d.next + 1) % maxDrafts
}

// find returns the check with that id, or nil.
func (d *drafts) find(id transaction) []byte {
	for _, check := range d.kept {
		if idOf(check) == id {
			return check
		}
	}
	return nil
}
