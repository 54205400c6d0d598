package bench

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"cline-meet/signal/signal"
	"cline-meet/signal/signal/bench/measure"
	"cline-meet/signal/state"
)

// floorVariable makes this executable the floor, which listens where it says.
const floorVariable = "BENCH_TEST_FLOOR"

func TestMain(m *testing.M) {
	if listen := os.Getenv(floorVariable); listen != "" {
		if err := serveFloor(context.Background(), listen); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of a test; it is long because it decides only how a failure ends.
const patience = 30 * time.Second

// startServer runs a signaling server in this process.
func startServer(t *testing.T) *target {
	t.Helper()
	cfg := signal.DefaultConfig()
	cfg.Host, cfg.Port = "127.0.0.1", 0
	cfg.AddrConns, cfg.MessageRate, cfg.MessageBurst = 10_000, 1e6, 1_000_000
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.Registry = prometheus.NewRegistry()
	cfg.Page = fstest.MapFS{"index.html": {Data: []byte("page")}}
	cfg.ICE = func(string, string) signal.ICEConfig { return signal.ICEConfig{} }
	node := state.NewMemory().Node("n1")
	cfg.State = node
	srv, err := signal.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	node.Subscribe(srv.Events())
	ran := make(chan error, 1)
	go func() { ran <- srv.Run() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(srv.Shutdown(ctx), <-ran); err != nil {
			t.Error(err)
		}
	})
	return &target{dialect: signalDialect, Server: measure.Server{Name: "signal", Address: srv.Addr().String(), PID: os.Getpid()}}
}

// startFloor runs the floor in this process.
func startFloor(t *testing.T) *target {
	t.Helper()
	port, err := measure.FreePort("tcp4")
	if err != nil {
		t.Fatal(err)
	}
	s := &target{dialect: echoDialect, Server: measure.Server{Name: "floor", Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), PID: os.Getpid()}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveFloor(ctx, s.Address) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the floor: %v", err)
		}
	})
	if err := s.Await(t.Context(), accepts); err != nil {
		t.Fatal(err)
	}
	return s
}

// tiny returns a scenario of few clients and little time.
func tiny(t *testing.T, name string) scenario {
	t.Helper()
	picked, err := pick(name)
	if err != nil {
		t.Fatal(err)
	}
	s := picked[0]
	s.clients, s.readers, s.settle, s.watch = min(s.clients, 20), min(s.readers, 10), time.Millisecond, 100*time.Millisecond
	s.rate = min(s.rate, 500)
	return s
}

func briefly(d time.Duration) Options {
	return Options{Options: measure.Options{Duration: d, Core: -1, Pin: -1}, Size: 1 << 10}
}

// TestScenarios runs every scenario, briefly, against the server of this module and against the floor.
func TestScenarios(t *testing.T) {
	for _, server := range []*target{startServer(t), startFloor(t)} {
		for _, s := range scenarios {
			if !s.suits(server.dialect) {
				continue
			}
			t.Run(server.Name+"/"+s.name, func(t *testing.T) {
				s := tiny(t, s.name)
				r, err := run(t.Context(), s, server, briefly(400*time.Millisecond))
				if err != nil {
					t.Fatal(err)
				}
				if !r.verified() {
					t.Errorf("%s", r.faultText())
				}
				if s.name != idle && (r.Delivered == 0 || r.CPU == 0 || r.Rate == 0) {
					t.Errorf("nothing was measured: %+v", r)
				}
				switch {
				case slices.Contains([]string{saturated, paced, half, trickle, slow}, s.name) && (r.P50 == 0 || r.P99 < r.P50),
					s.name == slow && r.P99Alone == 0,
					s.name == storm && (r.All == 0 || r.Delivered != 20),
					s.name == churn && r.Delivered == 0:
					t.Errorf("something was not measured: %+v", r)
				}
			})
		}
	}
}

// TestPaceKeepsItsRate tests that as much is sent as was asked for, also when the machine is late.
func TestPaceKeepsItsRate(t *testing.T) {
	g, err := newGenerator(t.Context(), startFloor(t), 4, 1<<10)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	const rate, length = 400, 500 * time.Millisecond
	start := time.Now()
	g.pace(g.flows, rate)
	if err := g.run(t.Context(), start.Add(length), nil); err != nil {
		t.Fatal(err)
	}
	least, most := uint64(rate*length.Seconds())-4, uint64(rate*time.Since(start).Seconds())+4
	sent := uint64(0)
	for _, f := range g.flows {
		sent += f.sent
	}
	if sent < least || sent > most {
		t.Errorf("%d messages were sent, not %d to %d", sent, least, most)
	}
}

// TestRunAgainstAnother starts servers by commands and compares them.
func TestRunAgainstAnother(t *testing.T) {
	o := briefly(200 * time.Millisecond)
	o.Command = "env " + floorVariable + "=127.0.0.1:{port} '" + os.Args[0] + "'"
	o.Dialect, o.Against, o.Dialects, o.Floor = "echo", []string{o.Command}, []string{"echo"}, o.Command
	o.Scenarios = []scenario{tiny(t, idle), tiny(t, paced), tiny(t, churn)}
	o.Runs = 2
	report, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Runs) != 12 || len(report.Results) != 6 {
		t.Errorf("%d runs, %d results", len(report.Runs), len(report.Results))
	}
	if err := report.Verified(); err != nil {
		t.Error(err)
	}
	var table strings.Builder
	report.Print(&table)
	for _, want := range []string{"signal", "env", "floor", "KB a connection"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &table)
		}
	}
}

func TestServerThatIsNotThere(t *testing.T) {
	o := briefly(time.Second)
	o.Dialect, o.Command, o.Scenarios = "echo", "true", []scenario{tiny(t, paced)}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Run(ctx, o); err == nil {
		t.Error("a server that ended at once is measured")
	}
	o.Command, o.Server = "", "127.0.0.1:1"
	if _, err := Run(t.Context(), o); err == nil {
		t.Error("a server that is not there is measured")
	}
}

func TestPickRefusesWhatThereIsNot(t *testing.T) {
	if _, err := pick("idle,busy"); err == nil {
		t.Error("busy was picked")
	}
	picked, err := pick("Idle, storm")
	if err != nil || len(picked) != 2 || picked[0].name != idle || picked[1].name != storm {
		t.Errorf("picked %v, %v", picked, err)
	}
	if _, err := findDialect("smoke"); err == nil {
		t.Error("smoke is a dialect")
	}
}
