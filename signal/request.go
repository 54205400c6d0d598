package signal

import (
	"context"
	"crypto/rand"
	"fmt"

	"cline-meet/signal/state"
)

// request is one that waits for the answer of a node.
type request struct {
	node   string
	answer chan response
}

// response is what a node says, or why it will not.
type response struct {
	frame []byte
	err   error
}

// request sends a message, which must carry the id that it is made with, to another node and waits for the answer, which names
// that id.
func (s *Server) request(ctx context.Context, node string, message func(id string) state.Message) ([]byte, error) {
	id, answers := rand.Text(), make(chan response, 1)
	s.mu.Lock()
	s.requests[id] = request{node, answers}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.requests, id)
	}()
	if err := s.sendTo(ctx, node, message(id)); err != nil {
		return nil, err
	}
	select {
	case a := <-answers:
		if a.err != nil {
			return nil, fmt.Errorf("waiting for node %s: %w", node, a.err)
		}
		return a.frame, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for node %s: %w", node, state.ErrUnavailable)
	}
}

// onAnswer gives the answer to a request to who waits for it.
func (s *Server) onAnswer(m state.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.requests[m.To]; ok {
		delete(s.requests, m.To)
		r.answer <- response{frame: m.Frame}
	}
}

// giveUpRequests answers the requests to a node that will not, for that reason.
func (s *Server) giveUpRequests(node string, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, r := range s.requests {
		if r.node == node {
			delete(s.requests, id)
			r.answer <- response{err: why}
		}
	}
}
