package turnsrv

import (
	"crypto/rand"
	"sync"
	"time"
)

// reservationLifetime is how long a reserved port waits for its token (RFC 8656,
// section 7.2).
const reservationLifetime = 30 * time.Second

// reservations holds the sockets that EVEN-PORT reserved, by token. A socket
// stays bound meanwhile, so that nobody else can get the port, and keeps the
// place in the quotas that the allocation of the token takes over.
type reservations struct {
	quotas *quotas // Fixed after construction.

	mu   sync.Mutex
	held map[reservationToken]*reservation
}

type reservationToken [8]byte

type reservation struct {
	socket *relaySocket
	holder holder
	expiry *time.Timer
}

func newReservations(q *quotas) *reservations {
	return &reservations{quotas: q, held: map[reservationToken]*reservation{}}
}

// hold keeps a socket, which has a place in the quotas, for the one who brings
// the token.
func (r *reservations) hold(s *relaySocket, h holder) reservationToken {
	var token reservationToken
	_, _ = rand.Read(token[:]) // Never fails, as its documentation says.
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[token] = &reservation{socket: s, holder: h, expiry: time.AfterFunc(reservationLifetime, func() {
		if s := r.redeem(token, h); s != nil {
			r.discard(s, h)
		}
	})}
	return token
}

// discard gives up a socket and its place in the quotas.
func (r *reservations) discard(s *relaySocket, h holder) {
	s.close()
	r.quotas.release(h, 1)
}

// redeem returns the socket of a token, which is of no more use then; nil when
// there is none for that holder.
func (r *reservations) redeem(token reservationToken, h holder) *relaySocket {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := r.held[token]
	if held == nil || held.holder != h {
		return nil
	}
	held.expiry.Stop()
	delete(r.held, token)
	return held.socket
}

// close gives up all that is held.
func (r *reservations) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for token, held := range r.held {
		held.expiry.Stop()
		held.socket.close()
		delete(r.held, token)
	}
}
