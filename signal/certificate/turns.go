package certificate

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"io"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"
)

// turns have handshakes wait for each other. What one computes takes as long as dozens of messages, with an RSA key hundreds, nothing
// interrupts a signature, and any stranger can ask for many at once. So they compute on half of the cores, and after a long signature
// that half rests for as long: those whose messages are to be relayed find a core. A turn begins before the keys are exchanged, and ends
// with the signature, so that what is computed for one handshake does not run beside what is computed for another. It ends as well when
// there is no signature: when the handshake is over, or waits for its client.
//
// Who has waited for long is sent away, since its client is about to give up: else those who come back once would be behind the
// handshakes of all who have gone, and be gone themselves when it is their turn.
//
// Handshakes of one address wait for each other before they wait for those of others, so that somebody new is not behind all that a
// stranger has begun.
type turns struct {
	taken chan struct{}

	mu    sync.Mutex
	lines map[netip.Addr]*line
	begun map[context.Context]*turn // begun is by the context of the handshake, which ends with it.
}

// line is where the handshakes of an address wait. Who is first in it waits for a turn.
type line struct {
	first   chan struct{}
	members int // guarded by turns.mu
}

// turn is that of a handshake which has not signed yet.
type turn struct {
	began time.Time
	late  *time.Timer // late ends the turn, unless it is stopped.
}

const (
	// unsigned is how long a turn lasts without a signature. The exchange of keys takes a tenth of that.
	unsigned = 2 * time.Millisecond
	// maxWait is how long a handshake waits for its turn, half of what it may take in all.
	maxWait = 5 * time.Second
	// short is how long a turn may be that no rest follows, and lasts when there is most likely no signature to come. By ECDSA it takes
	// half of that.
	short = 500 * time.Microsecond
)

func newTurns() *turns {
	return &turns{taken: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), lines: map[netip.Addr]*line{}, begun: map[context.Context]*turn{}}
}

// begin has a handshake of TLS wait for its turn, as tls.Config.GetConfigForClient.
func (t *turns) begin(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if err := t.take(site(hello)); err != nil {
		return nil, err
	}
	handshake := hello.Context()
	t.mu.Lock()
	t.begun[handshake] = &turn{time.Now(), time.AfterFunc(lasts(hello), t.give)}
	t.mu.Unlock()
	context.AfterFunc(handshake, func() { t.end(handshake) })
	return nil, nil
}

// preSharedKey is the extension by which a client resumes a session (RFC 8446, section 4.2).
const preSharedKey = 41

// lasts returns how long a turn lasts without a signature. Who resumes a session needs none, and many do so at once when a network
// has failed.
func lasts(hello *tls.ClientHelloInfo) time.Duration {
	if slices.Contains(hello.Extensions, preSharedKey) {
		return short
	}
	return unsigned
}

// of returns the turn of a handshake, nil for DTLS.
func (t *turns) of(handshake context.Context) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.begun[handshake]
}

// end forgets a handshake that is over.
func (t *turns) end(handshake context.Context) {
	t.mu.Lock()
	late := t.begun[handshake].late
	delete(t.begun, handshake)
	t.mu.Unlock()
	if late.Stop() {
		t.give()
	}
}

// find has the certificates that it finds sign when it is their turn.
func (t *turns) find(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		found, err := get(hello)
		if err != nil || found == nil {
			return found, err
		}
		cert := *found
		if key, ok := cert.PrivateKey.(crypto.Signer); ok {
			cert.PrivateKey = turnSigner{key, t, t.of(hello.Context()), site(hello)}
		}
		return &cert, nil
	}
}

// site is the address that a handshake counts for, that of a network for IPv6. Those of DTLS, which tell of none, share one: few of an
// address are under way.
func site(hello *tls.ClientHelloInfo) netip.Addr {
	if hello.Conn == nil {
		return netip.Addr{}
	}
	from, _ := netip.ParseAddrPort(hello.Conn.RemoteAddr().String())
	addr := from.Addr().Unmap().WithZone("")
	if addr.Is6() {
		network, _ := addr.Prefix(64)
		return network.Addr()
	}
	return addr
}

var errBusy = errors.New("too many handshakes are before it")

// take waits for a turn.
func (t *turns) take(from netip.Addr) error {
	l := t.enter(from)
	defer t.leave(from, l)
	late := time.NewTimer(maxWait)
	defer late.Stop()
	select {
	case l.first <- struct{}{}:
		defer func() { <-l.first }()
	case <-late.C:
		return errBusy
	}
	select {
	case t.taken <- struct{}{}:
		return nil
	case <-late.C:
		return errBusy
	}
}

func (t *turns) enter(from netip.Addr) *line {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lines[from]
	if l == nil {
		l = &line{first: make(chan struct{}, 1)}
		t.lines[from] = l
	}
	l.members++
	return l
}

func (t *turns) leave(from netip.Addr, l *line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.members--; l.members == 0 {
		delete(t.lines, from)
	}
}

func (t *turns) give() { <-t.taken }

// giveSigned ends a turn with a signature, after a rest.
func (t *turns) giveSigned(took time.Duration) {
	if took < short {
		t.give()
		return
	}
	time.AfterFunc(took, t.give)
}

// turnSigner is a key that signs when it is its turn.
type turnSigner struct {
	crypto.Signer
	turns *turns
	turn  *turn // turn is nil for DTLS, whose turns begin with the signature.
	from  netip.Addr
}

func (s turnSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	began, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer func() { s.turns.giveSigned(time.Since(began)) }()
	return s.Signer.Sign(rand, digest, opts)
}

// begin returns when the turn has begun that the signature is made in.
func (s turnSigner) begin() (time.Time, error) {
	if s.turn != nil && s.turn.late.Stop() {
		return s.turn.began, nil
	}
	err := s.turns.take(s.from)
	return time.Now(), err
}
