package measure

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	startTimeout = 30 * time.Second
	startPoll    = 50 * time.Millisecond
	startTries   = 3
)

// errEnded says that a server has ended before it answered, as one does whose port somebody else has got meanwhile.
var errEnded = errors.New("the command has ended")

// Server is one server under measurement: one that runs already, or one that Launch has started.
type Server struct {
	Name    string
	Address string // Address is host:port.
	PID     int    // PID is its process, 0 when that is not known here.

	command *exec.Cmd
	ended   chan struct{} // closed when the command has ended, nil without one
}

// Launch starts a server on a free port of 127.0.0.1, and of network, and returns when answers says
// that it is there. In command {port} stands for that port; fill holds more such words, each before
// what it stands for. After an error the server still has to be stopped.
func (s *Server) Launch(ctx context.Context, network, command string, core int, answers func(address string) bool, fill ...string) error {
	var err error
	for range startTries {
		if err = s.launch(ctx, network, command, core, answers, fill); !errors.Is(err, errEnded) {
			return err
		}
	}
	return err
}

func (s *Server) launch(ctx context.Context, network, command string, core int, answers func(address string) bool, fill []string) error {
	port, err := FreePort(network)
	if err != nil {
		return err
	}
	s.Address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	fill = append(slices.Clip(fill), "{port}", strconv.Itoa(port))
	if s.command, err = start(strings.NewReplacer(fill...).Replace(command), core); err != nil {
		return err
	}
	s.PID, s.ended = s.command.Process.Pid, make(chan struct{})
	go func() {
		_ = s.command.Wait()
		close(s.ended)
	}()
	return s.Await(ctx, answers)
}

// Await returns when answers says that the server is there.
func (s *Server) Await(ctx context.Context, answers func(address string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for ctx.Err() == nil {
		if answers(s.Address) {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("starting %s at %s: %w", s.Name, s.Address, errEnded)
		case <-ctx.Done():
		case <-time.After(startPoll):
		}
	}
	return fmt.Errorf("%s at %s does not answer", s.Name, s.Address)
}

// Started reports whether Launch has started the server.
func (s *Server) Started() bool { return s.command != nil }

// Stop ends a server that Launch has started.
func (s *Server) Stop() {
	if s.command != nil {
		_ = s.command.Process.Kill()
		<-s.ended
	}
}

// CPU returns the time that the server has spent on processors, in the system and outside; 0 when
// its process is not known.
func (s *Server) CPU() time.Duration { return CPU(s.PID) }

// Memory returns the resident memory of the server in bytes, 0 when its process is not known.
func (s *Server) Memory() int64 { return memory(s.PID) }

// FreePort returns a port of 127.0.0.1 that nobody has now; network is tcp4, or udp4 for one that is free for TCP as well, which
// a TURN server takes, too.
func FreePort(network string) (int, error) {
	var err error
	for range startTries {
		var port int
		if port, err = freePort(network); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("looking for a free port: %w", err)
}

func freePort(network string) (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	port := l.Addr().(*net.TCPAddr).Port
	if network == "tcp4" {
		return port, nil
	}
	conn, err := net.ListenPacket(network, l.Addr().String())
	if err != nil {
		return 0, err
	}
	return port, conn.Close()
}
