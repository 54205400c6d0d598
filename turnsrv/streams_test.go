package turnsrv

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/pion/stun/v2"
)

func TestFrameReader(t *testing.T) {
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("bob!")).Raw
	channel := []byte{0x40, 1, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0}
	tiny := []byte{0x7f, 0xff, 0, 0}
	huge := append([]byte{0x40, 2, 0xff, 0xff}, make([]byte, 65536)...)
	stream := bytes.Join([][]byte{request, channel, tiny, huge, channel, request}, nil)
	want := [][]byte{request, channel, tiny, channel, request}
	for name, reader := range map[string]io.Reader{
		"at once": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
	} {
		f := newFrameReader(reader)
		for i, frame := range want {
			got, err := f.next(1600)
			if err != nil || !bytes.Equal(got, frame) {
				t.Fatalf("%s, frame %d: %x, %v", name, i, got, err)
			}
		}
		if _, err := f.next(1600); err != io.EOF {
			t.Errorf("%s, at the end: %v", name, err)
		}
	}
}

func TestFrameReaderRefuses(t *testing.T) {
	for name, stream := range map[string][]byte{
		"neither":                    {0x80, 0, 0, 0, 0, 0, 0, 0},
		"http":                       []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")[1:],
		"stun without cookie":        {0, 1, 0, 0, 1, 2, 3, 4},
		"stun with an odd length":    {0, 1, 0xff, 0xff, 0x21, 0x12, 0xa4, 0x42},
		"stun, length of the attack": append([]byte{0, 1, 0xff, 0xec, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...),
		"channel data of the attack": {0x40, 0, 0xff, 0xfc},
	} {
		if frame, err := newFrameReader(bytes.NewReader(stream)).next(1600); err == nil {
			t.Errorf("%s: %x", name, frame)
		}
	}
}

// TestGarbageEndsOneConnection sends what is no frame; others go on.
func TestGarbageEndsOneConnection(t *testing.T) {
	s := startServer(t, testConfig())
	bad, good := dial(t, s), dial(t, s)
	if _, err := bad.Write(append([]byte{0x90}, make([]byte, 40)...)); err != nil {
		t.Fatal(err)
	}
	if _, err := bad.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("garbage did not end the connection: %v", err)
	}
	if _, err := good.Write(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(good, make([]byte, 20)); err != nil {
		t.Errorf("the other connection: %v", err)
	}
}

// failingListener fails some times before it accepts.
type failingListener struct {
	net.Listener
	failures int
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

// TestListenerSurvivesErrors runs out of descriptors twice.
func TestListenerSurvivesErrors(t *testing.T) {
	flaky := systemSockets()
	flaky.stream = func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address)
		return &failingListener{l, 2}, err
	}
	s, err := newServer(testConfig(), flaky)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	conn := dial(t, s)
	if _, err := conn.Write(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 20)); err != nil {
		t.Errorf("no answer after errors: %v", err)
	}
}

// failingPath fails some times before it reads.
type failingPath struct {
	datagramPath
	failures int
}

func (p *failingPath) readFrom(b []byte) (int, *net.UDPAddr, error) {
	if p.failures > 0 {
		p.failures--
		return 0, nil, syscall.ENOBUFS
	}
	return p.datagramPath.readFrom(b)
}

func TestDatagramsSurviveErrors(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := newDatagrams(conn, newInflight(), slog.New(slog.DiscardHandler))
	d.path = &failingPath{d.path, 2}
	if _, err := d.WriteTo([]byte("hi"), conn.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if n, _, err := d.ReadFrom(make([]byte, 10)); n != 2 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	_ = d.Close()
	if _, _, err := d.ReadFrom(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	<-d.left
}
