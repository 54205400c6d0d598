// Package bench makes load for TURN servers: any server, and two of them in
// turns. It is behind `signal bench turn` and imports nothing of the server, so
// that it measures from outside.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"cline-meet/signal/signal/bench/measure"
	"cline-meet/signal/turnsrv/turnclient"
)

// Options say what to measure and how.
type Options struct {
	measure.Options
	Server    string // Server is host:port of the server under test.
	PID       int    // PID is its process, 0 when that is not known here.
	Command   string // Command starts the server under test, if it does not run yet.
	Against   string // Against starts a server to compare with, if it is not empty.
	Floor     string // Floor starts the minimal forwarder, if it is not empty.
	Secret    string // Secret is the TURN-REST secret of the servers.
	User      string // User is name:password, instead of Secret.
	Scenarios []scenario
	Transport string // Transport is udp, tcp, tls or dtls: that of scenarios which name none.
	Verify    bool   // Verify checks every byte and the order of what arrives.

	certificate, key string // certificate and key are files for the servers that are started.
}

func (o Options) credential() turnclient.Credential {
	if name, password, ok := strings.Cut(o.User, ":"); ok {
		return turnclient.Credential{Username: name, Password: password}
	}
	return turnclient.Mint(o.Secret, "bench", time.Now(), credentialLife)
}

// target is one server.
type target struct {
	measure.Server
	secure string // secure is host:port of TLS and DTLS, empty where they are at Address.
	floor  bool
}

// address is where clients of a transport go.
func (t *target) address(transport string) string {
	if strings.HasSuffix(transport, "tls") && t.secure != "" {
		return t.secure
	}
	return t.Address
}

// Report is what Run has found.
type Report struct {
	Results []result `json:"results"`           // Results are the medians, by scenario and server.
	Runs    []result `json:"runs,omitempty"`    // Runs are all runs, in their order.
	Targets []string `json:"servers,omitempty"` // Targets are the names of the servers, that under test first.
}

// Run measures all servers in turns, so that what else the machine does hits
// them alike.
func Run(ctx context.Context, o Options) (*Report, error) {
	forget, err := o.certify()
	if err != nil {
		return nil, err
	}
	defer forget()
	targets, err := o.targets(ctx)
	defer func() {
		for _, t := range targets {
			t.Stop()
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := measure.PinProcess(o.Core); err != nil {
		return nil, err
	}
	report := new(Report)
	for _, t := range targets {
		report.Targets = append(report.Targets, t.Name)
	}
	err = o.Interleave(names(o.Scenarios), report.Targets, func(i, j int) error {
		return report.add(ctx, o.Scenarios[i], targets[j], o)
	})
	if err != nil {
		return report, err
	}
	report.summarize()
	return report, nil
}

// add runs a scenario, unless it is none for the floor.
func (r *Report) add(ctx context.Context, s scenario, t *target, o Options) error {
	if t.floor && (s.name == cycles || s.name == idle || s.flood > 0 || s.via != "") {
		return nil
	}
	got, err := run(ctx, s, t, o)
	if err != nil {
		return fmt.Errorf("%s against %s: %w", s.name, t.Name, err)
	}
	got.Server = t.Name
	r.Runs = append(r.Runs, got)
	return nil
}

func run(ctx context.Context, s scenario, t *target, o Options) (result, error) {
	if s.via == "" {
		s.via = o.Transport
	}
	switch {
	case s.name == cycles:
		return allocationCycles(ctx, t, o)
	case s.name == idle:
		return idleAllocations(ctx, s, t, o)
	case s.via != "udp":
		return sessions(ctx, s, t, o)
	}
	return traffic(ctx, s, t, o)
}

// targets are the servers that run already and those that are started here. After
// an error they still have to be stopped.
func (o Options) targets(ctx context.Context) ([]*target, error) {
	first := &target{Server: measure.Server{Name: "signal", Address: o.Server, PID: o.PID}}
	targets := []*target{first}
	if o.Command != "" {
		if err := first.launch(ctx, o, o.Command); err != nil {
			return targets, err
		}
	}
	if o.Against != "" {
		other := &target{Server: measure.Server{Name: "other"}}
		targets = append(targets, other)
		if err := other.launch(ctx, o, o.Against); err != nil {
			return targets, err
		}
	}
	if o.Floor != "" {
		floor := newFloor("")
		targets = append(targets, floor)
		if err := floor.launch(ctx, o, o.Floor); err != nil {
			return targets, err
		}
	}
	return targets, nil
}

// Relay ports of servers that are started here, so that one leaves the other's
// alone.
const (
	relayPorts = 10_000
	firstRelay = 11_000
)

// launch starts a server on a free port and waits until it answers.
func (t *target) launch(ctx context.Context, o Options, command string) error {
	low := firstRelay
	if t.Name == "other" {
		low += relayPorts
	}
	secure, err := measure.FreePort("tcp4")
	if err != nil {
		return err
	}
	t.secure = net.JoinHostPort("127.0.0.1", strconv.Itoa(secure))
	return t.Launch(ctx, "udp4", command, o.Pin, answers, "{secret}", o.Secret,
		"{tls}", strconv.Itoa(secure), "{cert}", o.certificate, "{key}", o.key,
		"{min}", strconv.Itoa(low), "{max}", strconv.Itoa(low+relayPorts-1))
}

// answers reports whether a server answers a Binding request, or the floor its own.
func answers(address string) bool {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	// A Binding request; the floor answers whatever is no data.
	request := append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42}, make([]byte, 12)...)
	_ = conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := conn.Write(request); err != nil {
		return false
	}
	_, err = conn.Read(make([]byte, 1500))
	return err == nil
}

func newFloor(address string) *target {
	return &target{Server: measure.Server{Name: "floor", Address: address}, floor: true}
}

// summarize fills Results with the medians of all runs.
func (r *Report) summarize() {
	r.Results = measure.Summarize(r.Runs, func(run result) [2]string { return [2]string{run.Scenario, run.Server} }, median)
}

// median returns the values that are in the middle, each for itself; errors are
// those of all runs.
func median(runs []result) result {
	type value = *float64
	m := measure.Median(runs,
		func(r *result) value { return &r.Rate }, func(r *result) value { return &r.CPU },
		func(r *result) value { return &r.Load }, func(r *result) value { return &r.Loss },
		func(r *result) value { return &r.P50 }, func(r *result) value { return &r.P99 },
		func(r *result) value { return &r.P999 }, func(r *result) value { return &r.P99Alone },
		func(r *result) value { return &r.Cycles }, func(r *result) value { return &r.CycleCPU },
		func(r *result) value { return &r.Idle }, func(r *result) value { return &r.AfterwardB },
	)
	m.Lost, m.Corrupt, m.Reordered = 0, 0, 0
	for _, run := range runs {
		m.Lost += run.Lost
		m.Corrupt += run.Corrupt
		m.Reordered += run.Reordered
	}
	return m
}

// Print writes the medians as a table, with ratios to the server under test.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "%-5s %-7s %10s %10s %7s %8s %9s %9s %9s  %s\n",
		"", "server", "packets/s", "cpu µs/pkt", "ratio", "loss %", "p50 µs", "p99 µs", "p99.9 µs", "")
	for _, m := range r.Results {
		ratio := ""
		if first := r.find(m.Scenario, r.Targets[0]); first != nil && m.Server != first.Server {
			ratio = first.ratio(m)
		}
		switch {
		case m.Scenario == cycles:
			fmt.Fprintf(w, "%-5s %-7s %8.0f/s %10.1f %7s   µs a cycle\n", m.Scenario, m.Server, m.Cycles, m.CycleCPU, ratio)
		case m.Scenario == idle:
			fmt.Fprintf(w, "%-5s %-7s %10.0f %10.0f %7s   bytes an allocation, and kept after its release\n",
				m.Scenario, m.Server, m.Idle, m.AfterwardB, ratio)
		case floods(m.Scenario):
			fmt.Fprintf(w, "%-5s %-7s %10.0f %10s %7.2f %8.3f %9.0f %9.0f %9.0f  p99 to %.0f µs without the flood\n",
				m.Scenario, m.Server, m.Rate, "", m.P99/m.P99Alone, 100*m.Loss, m.P50, m.P99, m.P999, m.P99Alone)
		default:
			fmt.Fprintf(w, "%-5s %-7s %10.0f %10.2f %7s %8.3f %9.0f %9.0f %9.0f  corrupt %d reordered %d lost %d\n",
				m.Scenario, m.Server, m.Rate, m.CPU, ratio, 100*m.Loss, m.P50, m.P99, m.P999, m.Corrupt, m.Reordered, m.Lost)
		}
	}
}

// ratio says what the server under test needs of what another one needs; for
// cycles, how many more it makes.
func (r *result) ratio(other result) string {
	of, to := r.CPU, other.CPU
	switch r.Scenario {
	case cycles:
		of, to = r.Cycles, other.Cycles
	case idle:
		of, to = r.Idle, other.Idle
	}
	if to == 0 {
		return ""
	}
	return strconv.FormatFloat(of/to, 'f', 3, 64)
}

func (r *Report) find(scenario, server string) *result {
	for i := range r.Results {
		if r.Results[i].Scenario == scenario && r.Results[i].Server == server {
			return &r.Results[i]
		}
	}
	return nil
}

// ErrVerify says that something was lost, changed or out of order.
var ErrVerify = errors.New("packets were lost, corrupt or out of order")

// Verified returns ErrVerify unless the packets of the server under test arrived
// whole and in order, and all of them but where it is saturated.
func (r *Report) Verified() error {
	for _, m := range r.Results {
		if m.Server == r.Targets[0] && !m.verified() {
			return fmt.Errorf("%s: %w", m.Scenario, ErrVerify)
		}
	}
	return nil
}

func (r *result) verified() bool {
	return r.Corrupt+r.Reordered == 0 && (r.Lost == 0 || saturates(r.Scenario))
}
