package measure

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	startTimeout = 30 * time.Second
	startPoll    = 50 * time.Millisecond
)

// Server is one server under measurement: one that runs already, or one that Launch has started.
type Server struct {
	Name    string
	Address string // Address is host:port.
	PID     int    // PID is its process, 0 when that is not known here.

	command *exec.Cmd
}

// Launch starts a server on a free port of 127.0.0.1, and of network, and returns when answers says
// that it is there. In command {port} stands for that port; fill holds more such words, each before
// what it stands for. After an error the server still has to be stopped.
func (s *Server) Launch(ctx context.Context, network, command string, core int, answers func(address string) bool, fill ...string) error {
	port, err := FreePort(network)
	if err != nil {
		return err
	}
	s.Address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	fill = append(fill, "{port}", strconv.Itoa(port))
	if s.command, err = start(strings.NewReplacer(fill...).Replace(command), core); err != nil {
		return err
	}
	s.PID = s.command.Process.Pid
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
		Pause(ctx, startPoll)
	}
	return fmt.Errorf("%s at %s does not answer", s.Name, s.Address)
}

// Started reports whether Launch has started the server.
func (s *Server) Started() bool { return s.command != nil }

// Stop ends a server that Launch has started.
func (s *Server) Stop() {
	if s.command != nil {
		_ = s.command.Process.Kill()
		_ = s.command.Wait()
	}
}

// CPU returns the time that the server has spent on processors, in the system and outside; 0 when
// its process is not known.
func (s *Server) CPU() time.Duration { return CPU(s.PID) }

// Memory returns the resident memory of the server in bytes, 0 when its process is not known.
func (s *Server) Memory() int64 { return memory(s.PID) }

// FreePort returns a port of 127.0.0.1 that nobody has now; network is tcp4 or udp4.
func FreePort(network string) (int, error) {
	if network == "tcp4" {
		l, err := net.Listen(network, "127.0.0.1:0")
		if err != nil {
			return 0, fmt.Errorf("looking for a free port: %w", err)
		}
		defer func() { _ = l.Close() }()
		return l.Addr().(*net.TCPAddr).Port, nil
	}
	conn, err := net.ListenPacket(network, "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	defer func() { _ = conn.Close() }()
	return conn.LocalAddr().(*net.UDPAddr).Port, nil
}
