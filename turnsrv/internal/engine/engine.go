package engine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/pion/turn/v3"
)

const (
	realm = "engine"

	// MaxLifetime is the longest lifetime of an allocation: below the hour at which
	// pion falls back to its default.
	MaxLifetime = time.Hour - time.Second

	// peersAtOnce is how many peers a request names: pion reads no more than 1,600
	// bytes of one.
	peersAtOnce = 32
)

// name is the user and the realm of all requests.
var name = []byte(realm)

var errRefused = errors.New("the allocation engine refused")

// Engine is pion/turn, which manages allocations and their lifetimes.
type Engine struct {
	server *turn.Server
	lanes  []*Lane
}

// New starts an engine with these lanes. It keeps a channel a little less long than
// channelLifetime, so that it never still holds one that its user has given up. An
// own lane's loop is run at once.
func New(lanes []*Lane, channelLifetime time.Duration, log *slog.Logger) (*Engine, error) {
	key := make([]byte, 16)
	_, _ = rand.Read(key) // Never fails, as its documentation says.
	var configs []turn.PacketConnConfig
	for _, l := range lanes {
		l.open(key)
		configs = append(configs, turn.PacketConnConfig{PacketConn: l, RelayAddressGenerator: l})
	}
	server, err := turn.NewServer(turn.ServerConfig{
		PacketConnConfigs:  configs,
		LoggerFactory:      Logs(log),
		Realm:              realm,
		AuthHandler:        func(string, string, net.Addr) ([]byte, bool) { return key, true },
		ChannelBindTimeout: channelLifetime - time.Second,
	})
	if err != nil {
		return nil, fmt.Errorf("starting the turn engine: %w", err)
	}
	return &Engine{server, lanes}, nil
}

// Open returns how many allocations have to be waited for.
func (e *Engine) Open() int {
	open := e.server.AllocationCount()
	for _, l := range e.lanes {
		open -= int(l.abandoned.Load())
	}
	return open
}

// Close ends the read loops. Relays that are still open are closed by them.
func (e *Engine) Close() error {
	if err := e.server.Close(); err != nil {
		return fmt.Errorf("closing the turn engine: %w", err)
	}
	return nil
}
