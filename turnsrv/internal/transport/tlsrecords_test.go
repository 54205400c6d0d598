package transport

import (
	"bytes"
	"errors"
	"net"
	"testing"
)

// writeCounter is a connection that keeps what each Write got.
type writeCounter struct {
	net.Conn
	writes [][]byte
	fail   error
}

func (c *writeCounter) Write(p []byte) (int, error) {
	if c.fail != nil {
		return 0, c.fail
	}
	c.writes = append(c.writes, bytes.Clone(p))
	return len(p), nil
}

func TestRecordsAreWrittenTogether(t *testing.T) {
	under := new(writeCounter)
	b := &recordBatch{Conn: under}
	write := func(text string) {
		if n, err := b.Write([]byte(text)); n != len(text) || err != nil {
			t.Fatalf("%q: %d, %v", text, n, err)
		}
	}
	write("alone")
	b.hold()
	for range 5 {
		write("together")
	}
	if len(under.writes) != 1 {
		t.Errorf("%d writes before the flush", len(under.writes))
	}
	if err := b.flush(); err != nil || len(under.writes) != 2 || len(under.writes[1]) != 5*len("together") {
		t.Errorf("%v: %q", err, under.writes)
	}
	b.hold()
	write(string(make([]byte, writeChunk))) // As much as is written at once.
	if len(under.writes) != 3 {
		t.Errorf("%d writes after a whole chunk", len(under.writes))
	}
	write("rest")
	under.fail = errors.New("reset")
	if err := b.flush(); !errors.Is(err, under.fail) {
		t.Errorf("flush: %v", err)
	}
	if _, err := b.Write([]byte("late")); !errors.Is(err, under.fail) {
		t.Errorf("write: %v", err)
	}
}
