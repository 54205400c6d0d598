package signal

import (
	"slices"
	"strings"
	"testing"
)

// narrow is a link whose client reads all that is there just after a write has found no more room,
// which is told before the write has returned.
type narrow struct {
	script
	s *socket
}

func (l *narrow) Write(p []byte) (int, error) {
	n, err := l.script.Write(p)
	if err == errWait {
		l.room = 10
		l.s.unblock()
	}
	return n, err
}

// TestRoomDuringWrite makes room for a write that was about to wait for it: nobody would tell again.
func TestRoomDuringWrite(t *testing.T) {
	l := new(narrow)
	var f flusher
	f.begin()
	l.s = newSocket(l, new(record), &testLimits, &f)
	text := strings.Repeat("x", 100)
	if err := l.s.push([]byte(text)); err != nil {
		t.Fatal(err)
	}
	f.end()
	if !l.s.idle() {
		t.Fatalf("%d bytes were written, and nothing writes the rest", l.out.Len())
	}
	if got := sentFrames(t, l.out.Bytes()); !slices.Equal(got, []string{"1 " + text}) {
		t.Errorf("sent %q", got)
	}
}

// TestAnswerClose answers close frames with their code, with none when they have none, and half a code with what that is.
func TestAnswerClose(t *testing.T) {
	for payload, want := range map[string]string{"": "8 ", "\x03": "8 \x03\xeaWebSocket protocol: half a close code", "\x03\xe9": "8 \x03\xe9", "\x03\xe9bye": "8 \x03\xe9"} {
		l := &script{portions: [][]byte{clientFrame(0x88, payload)}, room: -1}
		var f flusher
		f.begin()
		s := newSocket(l, new(record), &testLimits, &f)
		s.serve()
		f.end()
		if got := sentFrames(t, l.out.Bytes()); !slices.Equal(got, []string{want}) {
			t.Errorf("%q was answered with %q", payload, got)
		}
		s.abort()
	}
}
