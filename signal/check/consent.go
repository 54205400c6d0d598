package check

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/turnclient"
)

// checks is how often each side asks the other for consent: checks may be lost.
const checks = 3

// agree has both sides ask each other for consent, as browsers do by ICE: a relay may send nothing else to who has not given it. Where
// that fails, nothing will come through, and whoever looks for it says so.
func (p *pair) agree() error {
	for range checks {
		there, err := consent(p.near, p.far)
		if err != nil {
			return err
		}
		back, err := consent(p.far, p.near)
		if err != nil || there && back {
			return err
		}
	}
	return nil
}

// consent sends a check to the other side, which answers, and reports whether the answer came.
func consent(asks, answers *turnclient.Client) (bool, error) {
	check, password, err := newCheck()
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

// newCheck makes a connectivity check, and the password that it is signed with.
func newCheck() (*stun.Message, stun.MessageIntegrity, error) {
	password := stun.NewShortTermIntegrity(rand.Text())
	check, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername("there:here"), priority,
		stun.RawAttribute{Type: stun.AttrICEControlling, Value: make([]byte, 8)}, password, stun.Fingerprint)
	if err != nil {
		return nil, nil, fmt.Errorf("building a check: %w", err)
	}
	return check, password, nil
}

// priority is that of a relayed candidate.
var priority = stun.RawAttribute{Type: stun.AttrPriority, Value: []byte{0, 0xff, 0xff, 0xff}}

// pass reports whether a message comes to the other side.
func pass(from, to *turnclient.Client, m *stun.Message) bool {
	if from.Send(turnclient.FirstChannel, m.Raw) != nil {
		return false
	}
	for deadline := time.Now().Add(patience / (4 * checks)); ; {
		data, err := to.Receive(deadline)
		if err != nil {
			return false
		}
		if string(data) == string(m.Raw) {
			return true
		}
	}
}
