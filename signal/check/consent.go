package check

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/turnclient"
)

// checks is how often each side asks the other for consent: checks may be lost, and the server may not know yet what was said in the room.
const checks = 4

// told is what a participant says in the room, as browsers do in SDP: the server may let relays reach nobody else.
type told struct{ ufrag, password string }

func newTold() told { return told{"check", rand.Text()} }

// String returns the lines of SDP.
func (t told) String() string {
	return "a=ice-ufrag:" + t.ufrag + "\r\na=ice-pwd:" + t.password + "\r\n"
}

// agree has both sides ask each other for consent, as browsers do by ICE: a relay may send nothing else to who has not given it. Where
// that fails, nothing will come through, and whoever looks for it says so.
func (p *pair) agree() error {
	for range checks {
		there, err := p.told.consent(p.near, p.far)
		if err != nil {
			return err
		}
		back, err := p.told.consent(p.far, p.near)
		if err != nil || there && back && p.carry(1<<35, 100, patience/(2*checks)) {
			return err
		}
	}
	return nil
}

// consent sends a check to the other side, which answers, and reports whether the answer came.
func (t told) consent(asks, answers *turnclient.Client) (bool, error) {
	password := stun.NewShortTermIntegrity(t.password)
	check, err := t.check()
	if err != nil {
		return false, err
	}
	answer, err := stun.Build(stun.NewTransactionIDSetter(check.TransactionID), stun.BindingSuccess,
		&stun.XORMappedAddress{IP: asks.Relay.Addr().AsSlice(), Port: int(asks.Relay.Port())}, password, stun.Fingerprint)
	if err != nil {
		return false, fmt.Errorf("building an answer: %w", err)
	}
	return pass(asks, answers, check) && pass(answers, asks, answer), nil
}

// check makes a connectivity check for who has said that.
func (t told) check() (*stun.Message, error) {
	check, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername(t.ufrag+":here"), priority,
		stun.RawAttribute{Type: stun.AttrICEControlling, Value: make([]byte, 8)}, stun.NewShortTermIntegrity(t.password), stun.Fingerprint)
	if err != nil {
		return nil, fmt.Errorf("building a check: %w", err)
	}
	return check, nil
}

// priority is that of a relayed candidate.
var priority = stun.RawAttribute{Type: stun.AttrPriority, Value: []byte{0, 0xff, 0xff, 0xff}}

// pass reports whether a message comes to the other side.
func pass(from, to *turnclient.Client, m *stun.Message) bool {
	if from.Send(turnclient.FirstChannel, m.Raw) != nil {
		return false
	}
	for deadline := time.Now().Add(patience / (2 * checks)); ; {
		data, err := to.Receive(deadline)
		if err != nil {
			return false
		}
		if string(data) == string(m.Raw) {
			return true
		}
	}
}
