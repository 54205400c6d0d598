//go:build linux && (amd64 || arm64)

package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/bench/measure"
	"cline-meet/signal/turnsrv"
)

// floorVariable makes this executable the floor, which listens where it says.
const floorVariable = "BENCH_TEST_FLOOR"

func TestMain(m *testing.M) {
	if listen := os.Getenv(floorVariable); listen != "" {
		if err := serveFloor(context.Background(), listen, 0); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// verifying are the options of a short run whose packets are checked.
func verifying(d time.Duration) Options {
	return Options{Options: measure.Options{Duration: d}, Verify: true}
}

// TestFloorPassesVerify runs every scenario with packets, briefly, through the
// floor: it tests that the generator and the floor lose and change nothing.
func TestFloorPassesVerify(t *testing.T) {
	port, err := measure.FreePort("udp4")
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveFloor(ctx, address, 100*time.Microsecond) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the floor: %v", err)
		}
	}()
	server := newFloor(address)
	if err := server.Await(t.Context(), answers); err != nil {
		t.Fatal(err)
	}
	for _, s := range scenarios[:10] {
		r, err := traffic(t.Context(), s, server, verifying(200*time.Millisecond))
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if r.Delivered == 0 || !r.verified() {
			t.Errorf("%s: delivered %d, lost %d, corrupt %d, reordered %d", s.name, r.Delivered, r.Lost, r.Corrupt, r.Reordered)
		}
	}
}

// TestTakingTurns runs the scenarios that stop the server again and again.
func TestTakingTurns(t *testing.T) {
	server := newFloor("")
	defer server.Stop()
	if err := server.launch(t.Context(), Options{Options: measure.Options{Pin: -1}}, "env "+floorVariable+"=127.0.0.1:{port} '"+os.Args[0]+"'"); err != nil {
		t.Fatal(err)
	}
	picked, err := pick("C3,C4")
	if err != nil {
		t.Fatal(err)
	}
	picked = withClients(picked, 20)
	for _, s := range picked {
		r, err := traffic(t.Context(), s, server, verifying(5*turnTime))
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if r.Delivered == 0 || r.Lost > 0 || !r.verified() {
			t.Errorf("%s: delivered %d, lost %d, corrupt %d, reordered %d", s.name, r.Delivered, r.Lost, r.Corrupt, r.Reordered)
		}
	}
	elsewhere := newFloor(server.Address)
	elsewhere.PID = server.PID
	if _, err := traffic(t.Context(), picked[0], elsewhere, Options{}); err == nil {
		t.Error("a server that was not started here is stopped")
	}
}

// startServer starts a TURN server of this process and returns how to reach it
// over a transport.
func startServer(t *testing.T, transport string) (*target, Options) {
	t.Helper()
	cfg := turnsrv.DefaultConfig()
	cfg.Port, cfg.TLSPort = 0, 0
	cfg.Secrets = []string{"the-secret-of-benches"}
	cfg.Listen, cfg.RelayIP, cfg.AllowPeers = []string{"127.0.0.1"}, []string{"127.0.0.1"}, []string{"127.0.0.1"}
	cfg.UserQuota, cfg.AllocateRate, cfg.UnauthRate = 0, 0, 1e6
	certificate := systemtest.Certificate(t, "127.0.0.1")
	cfg.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certificate, nil }}
	s, err := turnsrv.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	o := verifying(300 * time.Millisecond)
	o.Secret, o.Transport = cfg.Secrets[0], transport
	at := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	return &target{Server: measure.Server{Name: "signal", Address: at(s.Port()), PID: os.Getpid()}, secure: at(s.TLSPort())}, o
}

// TestServerPassesVerify runs the scenarios, briefly, through the TURN server of
// this module, whose data path it tests that way.
func TestServerPassesVerify(t *testing.T) {
	for transport, names := range map[string]string{"udp": "S,PAIR", "tcp": "S1,S2", "tls": "TLS", "dtls": "DTLS"} {
		t.Run(transport, func(t *testing.T) {
			server, o := startServer(t, transport)
			picked, err := pick(names)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range picked {
				systemtest.Until(t, s.name+" loses nothing", func() error { // A busy machine's sockets overflow.
					r, err := run(t.Context(), s, server, o)
					if err != nil {
						t.Fatalf("%s: %v", s.name, err)
					}
					text := fmt.Sprintf("%s: delivered %d, lost %d, corrupt %d, reordered %d", s.name, r.Delivered, r.Lost, r.Corrupt, r.Reordered)
					if r.Corrupt != 0 || r.Reordered != 0 {
						t.Error(text)
					}
					if r.Delivered == 0 || !r.verified() {
						return errors.New(text)
					}
					return nil
				})
			}
		})
	}
}

func TestCyclesAreCounted(t *testing.T) {
	server, o := startServer(t, "udp")
	r, err := allocationCycles(t.Context(), server, o)
	if err != nil || r.Cycles == 0 || r.CycleCPU == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestVerifyFails shows that a server which stops relaying is found out.
func TestVerifyFails(t *testing.T) {
	port, err := measure.FreePort("udp4")
	if err != nil {
		t.Fatal(err)
	}
	server := newFloor(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveFloor(ctx, server.Address, 0) }()
	if err := server.Await(t.Context(), answers); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, cancel)
	r, err := traffic(t.Context(), scenarios[1], server, verifying(300*time.Millisecond))
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	r.Server = server.Name
	report := Report{Results: []result{r}, Targets: []string{server.Name}}
	if err := report.Verified(); !errors.Is(err, ErrVerify) {
		t.Errorf("lost %d: %v", r.Lost, err)
	}
}

func TestTallySeesWhatIsWrong(t *testing.T) {
	const size = 100
	payload := func(seq uint64) []byte {
		p := make([]byte, size)
		putPayload(p, 7, seq, 1, true)
		return p
	}
	changed := payload(5)
	changed[size-1]++
	var got tally
	for _, p := range [][]byte{payload(0), payload(2), payload(1), changed, payload(3)[:size-1]} {
		got.take(p, 7, size, true)
	}
	got.take(payload(4), 8, size, true) // Of another flow.
	if got.Received != 3 || got.Reordered != 1 || got.Corrupt != 3 {
		t.Errorf("received %d, reordered %d, corrupt %d; want 3, 1, 3", got.Received, got.Reordered, got.Corrupt)
	}
}

// TestServersGetACertificate starts nothing but a command that needs one.
func TestServersGetACertificate(t *testing.T) {
	o := Options{Command: "server --cert {cert} --key {key}"}
	forget, err := o.certify()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.LoadX509KeyPair(o.certificate, o.key); err != nil {
		t.Error(err)
	}
	forget()
	if _, err := os.Stat(o.key); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key is still there: %v", err)
	}
}

func TestPickRefusesWhatThereIsNot(t *testing.T) {
	if _, err := pick("S1,S9"); err == nil {
		t.Error("S9 was picked")
	}
	picked, err := pick("s3gg, A1")
	if err != nil || !slices.Equal(names(picked), []string{"S3gg", cycles}) {
		t.Errorf("picked %v, %v", picked, err)
	}
	picked, err = pick("pair,S1")
	if err != nil || !slices.Equal(names(picked), []string{"PAIR1", "PAIR2", "PAIR3", "PAIR3gg", "S1"}) {
		t.Errorf("picked %v, %v", picked, err)
	}
}

func TestMedianIsOfEachValue(t *testing.T) {
	m := median([]result{{CPU: 3, P99: 10, Lost: 1}, {CPU: 1, P99: 30}, {CPU: 2, P99: 20, Lost: 2}})
	if m.CPU != 2 || m.P99 != 20 || m.Lost != 3 {
		t.Errorf("got %+v", m)
	}
}
