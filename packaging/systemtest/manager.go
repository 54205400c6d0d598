package systemtest

import (
	"net"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// Manager is the end of systemd that services notify.
type Manager struct {
	t    testing.TB
	conn *net.UnixConn
}

// StartManager has this process, and those that it starts, notify the returned manager until the test ends.
func StartManager(t *testing.T) *Manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return &Manager{t, conn}
}

// Hears waits for the next notification, which must match a pattern.
func (m *Manager) Hears(want string) {
	m.t.Helper()
	if told := m.Within(Patience); !regexp.MustCompile("^(?:" + want + ")$").MatchString(told) {
		m.t.Errorf("systemd is told %q, want %s", told, want)
	}
}

// Within returns the next notification, or nothing when none comes in time.
func (m *Manager) Within(d time.Duration) string {
	buf := make([]byte, 1000)
	_ = m.conn.SetReadDeadline(time.Now().Add(d))
	n, _ := m.conn.Read(buf)
	return string(buf[:n])
}
