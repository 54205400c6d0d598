package redistest

import (
	"net"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestAnotherListenerIsNoServer has somebody else on the port of a server that starts.
func TestAnotherListenerIsNoServer(t *testing.T) {
	s := Start(t)
	s.Kill()
	other, err := net.Listen("tcp4", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if s.run() {
		t.Error("whoever listens there was taken for the server")
	}
	_ = other.Close()
	s.Start()
	if answer := s.Do("PING"); answer != "PONG" {
		t.Errorf("the server says %s", answer)
	}
}
