package auth

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v2"
)

// Answer is a kind of answer to who has not proved itself. Each has a budget of its
// own, so that a flood for one kind does not keep the others from anybody.
type Answer uint8

// The kinds of answers.
const (
	AnswerBinding      Answer = iota // AnswerBinding tells a client its address.
	AnswerUnauthorized               // AnswerUnauthorized is the 401 that brings a realm and a nonce.
	AnswerStale                      // AnswerStale is the 438 that brings a new nonce.
	AnswerRefused                    // AnswerRefused is for a request with a good nonce that proves nothing else.
	AnswerDiscovery                  // AnswerDiscovery tells of the NAT between, longer than a Binding's or to where the client says.
	answerKinds
)

const (
	// maxSources bounds the memory for the addresses that answers are counted by.
	maxSources = 1 << 16

	// maxAsked is how many requests without an answer are remembered. A flood of a
	// hundred thousand a second fills a tenth of it between two transmissions of a
	// client.
	maxAsked = 1 << 18
)

// Strangers decides which requests are answered that came over UDP from an address
// that may be forged, to flood its owner with the answers. A source has a budget of
// each kind of answer. Anybody can use it up in another's name, hence there is a way
// past it: a request that comes again is answered. Clients send a request again
// after some 250 ms until there is an answer, so a crowd behind one address, or
// the victim of a forger, is late by that much. To a forger it is worth nothing: an
// answer that takes two requests is no longer than they are with their IP headers,
// and what is not amplified could as well be sent to the victim. Any number of
// goroutines may use it.
type Strangers struct {
	budgets [answerKinds]*SourceLimit
	seed    maphash.Seed

	// asked holds hashes of requests that got no answer, each at one place. A later
	// request at the same place takes it.
	asked []atomic.Uint64
}

// NewStrangers returns a limit of perSecond answers of each kind for each source,
// and twice that at once. A perSecond of 0 means no limit.
func NewStrangers(perSecond float64) *Strangers {
	s := &Strangers{seed: maphash.MakeSeed(), asked: make([]atomic.Uint64, maxAsked)}
	for kind := range s.budgets {
		s.budgets[kind] = NewSourceLimit(perSecond, max(1, int(2*perSecond)), maxSources)
	}
	return s
}

// Allow decides about an answer to the request with that transaction id. What a
// good nonce came with is bounded by the budget alone, since it may be a guess at a
// password, and cannot be forged. So are answers of discovery, which would amplify.
func (s *Strangers) Allow(kind Answer, client netip.AddrPort, id [stun.TransactionIDSize]byte, now time.Time) bool {
	return s.budgets[kind].Allow(client.Addr(), now) || kind < AnswerRefused && s.again(client, id)
}

// Return gives an answer back to who has shown that the address is its own.
func (s *Strangers) Return(kind Answer, client netip.Addr, now time.Time) {
	s.budgets[kind].Return(client, now)
}

// again says whether a request comes for the second time, and forgets it then, so
// that each answer takes two.
func (s *Strangers) again(client netip.AddrPort, id [stun.TransactionIDSize]byte) bool {
	var request [16 + 2 + stun.TransactionIDSize]byte
	addr := client.Addr().As16()
	copy(request[:], addr[:])
	binary.BigEndian.PutUint16(request[16:], client.Port())
	copy(request[18:], id[:])
	hash := maphash.Bytes(s.seed, request[:])
	place := &s.asked[hash%uint64(len(s.asked))]
	if place.CompareAndSwap(hash, 0) {
		return true
	}
	place.Store(hash)
	return false
}
