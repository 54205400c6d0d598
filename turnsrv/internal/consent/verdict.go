package consent

import "sync/atomic"

// Verdict says whether a packet passes, or why not.
type Verdict uint8

// The verdicts.
const (
	Passed   Verdict = iota
	Unproved         // Unproved is what is no STUN, to or from a peer that has not consented.
	NoCheck          // NoCheck is STUN that is none of ICE's checks, nor the answer to one that came the other way.
	Rate             // Rate is a check too many.
	Lapsed           // Lapsed is data for a peer whose consent is too old.
	Foreign          // Foreign is what WebRTC does not send, to or from a peer that has consented.

	verdicts = iota
)

var reasons = [verdicts]string{"", "unproved", "check", "rate", "lapsed", "foreign"}

// String returns the name of a verdict.
func (v Verdict) String() string { return reasons[v] }

// Denials are the verdicts that deny.
func Denials() []Verdict { return []Verdict{Unproved, NoCheck, Rate, Lapsed, Foreign} }

// Count is of packets that were denied.
type Count struct{ Packets, Bytes uint64 }

type tally struct{ packets, bytes atomic.Uint64 }

func (t *tally) add(n int) {
	t.packets.Add(1)
	t.bytes.Add(uint64(n))
}

// Denied returns what was denied in a direction for a reason. A nil Gate denies nothing.
func (g *Gate) Denied(d Direction, v Verdict) Count {
	if g == nil {
		return Count{}
	}
	t := &g.denied[d][v]
	return Count{t.packets.Load(), t.bytes.Load()}
}
