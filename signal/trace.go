package signal

import (
	"context"
	"fmt"
	"time"

	"cline-meet/signal/state"
)

// A client that loses patience with a node goes to another with the token that it has. When the first, which was
// frozen perhaps, has taken the participant meanwhile for a connection that is dead, the token names a node that has it
// no more. So who has handed a participant over says where it went, the shared state says who has adopted one, and the
// participant answers to all epochs since the oldest of which the client may have the token, until the client has proved that it
// knows the newest. Requests are made one after the other by the node where the client is, at most maxHops.
//
// A request may as well be the one of the dead connection, and late, or of another window of the browser that has the token of
// this one. A participant with a live connection waits for a moment whether its client answers before it lets go.

// maxHops bounds how far a participant is followed.
const maxHops = 8

// proofTime is how long a client that has just come may take to prove that it is there.
const proofTime = 2 * time.Second

// elsewhere says where a participant has gone. For who cannot follow it is gone.
type elsewhere struct{ state.Member }

func (e elsewhere) Error() string { return fmt.Sprintf("the session is at node %s", e.Node) }
func (e elsewhere) Unwrap() error { return errGone }

// errNotThere says that a participant is not in its room as the node has it that handed it over. That node may be about to hear
// that another one was faster.
var errNotThere = fmt.Errorf("%w: it is in its room no more", errGone)

// mayHave reports whether the newest token that the client knows may be of that former epoch.
func (p *participant) mayHave(epoch uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.former > 0 && p.former <= epoch && epoch < p.epoch
}

// translate returns the epoch of the participant for which another node asks by an epoch that its client may have.
func (s *Server) translate(ctx context.Context, user string, epoch uint64) uint64 {
	s.awaitResume(ctx, user)
	if p := s.participant(user); p != nil {
		return p.translate(ctx, epoch)
	}
	return epoch
}

// translate returns the participant's epoch for a former one that its client may have, unless a client proves in time
// that it is there and knows better.
func (p *participant) translate(ctx context.Context, epoch uint64) uint64 {
	for end := time.Now().Add(proofTime); p.mayHave(epoch); {
		if p.isDetached() || !time.Now().Before(end) {
			return p.epoch
		}
		if !pause(ctx, adoptPoll) {
			break
		}
	}
	return epoch
}

// awaitResume waits until nobody resumes that user on this node: then it is known who has it.
func (s *Server) awaitResume(ctx context.Context, user string) {
	s.mu.Lock()
	resuming := s.resuming[user]
	s.mu.Unlock()
	if resuming == nil {
		return
	}
	select {
	case <-resuming:
	case <-ctx.Done():
	}
}

// isOf reports whether a client may ask with a token of that epoch and greeting for who has left.
func (move *outgoingMove) isOf(epoch, greeting uint64) bool {
	return epoch == move.epoch && (greeting == 0 || greeting >= move.proved) || move.former > 0 && move.former <= epoch && epoch < move.epoch
}

// arrived notes where a view of the room has the participant.
func (move *outgoingMove) arrived(m state.Member) {
	move.mu.Lock()
	if m.Epoch > move.there.Epoch {
		move.there = m
	}
	if move.snap != nil { // Of several that have asked this one was the fastest.
		move.to = m.Node
	}
	move.mu.Unlock()
	move.begin()
}

// whither returns the error that says where the participant has gone.
func (move *outgoingMove) whither() error {
	move.mu.Lock()
	defer move.mu.Unlock()
	if move.there.Node == "" {
		return errGone
	}
	return elsewhere{move.there}
}
