package signal

import (
	"bytes"
	"net"
	"testing"
	"time"
)

// TestNobodyWaitsForBatch lets a message of one client wait for something: what is sent to another from
// outside of any batch leaves meanwhile.
func TestNobodyWaitsForBatch(t *testing.T) {
	eachLink(t, func(t *testing.T, ps *pollers, f *flusher) {
		begun, answer := make(chan struct{}), make(chan struct{})
		waiting, client := connect(t, ps, f, func() { close(begun); <-answer })
		go waiting.s.serve()
		if _, err := client.Write(clientFrame(0x81, "wait")); err != nil {
			t.Fatal(err)
		}
		<-begun
		other, c := connect(t, ps, f, nil)
		if err := other.s.push([]byte("news")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 6)); err != nil {
			t.Errorf("what was sent to another client: %v", err)
		}
		close(answer)
		_ = client.Close()
		waiting.awaitEnd(t)
		other.s.finish()
	})
}

// slowConn is a connection that notes what is written after each deadline.
type slowConn struct {
	net.Conn
	pieces []int
}

func (c *slowConn) SetWriteDeadline(time.Time) error {
	c.pieces = append(c.pieces, 0)
	return nil
}

func (c *slowConn) Write(p []byte) (int, error) {
	c.pieces[len(c.pieces)-1] += len(p)
	return len(p), nil
}

func (c *slowConn) Close() error { return nil }

// TestDeadlineOfEachPiece writes much to a client at once, which may take long for all of it.
func TestDeadlineOfEachPiece(t *testing.T) {
	c := new(slowConn)
	l := newStream(c, time.Minute, new(flusher))
	if n, err := l.Write(bytes.Repeat([]byte("x"), 100_000)); n != 100_000 || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	for _, piece := range c.pieces {
		if piece > maxRecord {
			t.Errorf("%d bytes within one deadline", piece)
		}
	}
	l.close()
	l.flush(nil, 1) // A late flush writes nothing any more.
	l.writer.running.Wait()
}
