// Package bench makes load for WebSocket signaling servers: ours, PeerJS servers and plain echoes,
// several of them in turns. It is behind `signal bench ws` and imports nothing of the server, so that
// it measures from outside.
//
// One goroutine sends and receives for all clients of a run (loop), since the generator has one core
// and the server another. Every message carries who sent it, its number and when it was to be sent
// (payload), so that what is lost, doubled, out of order, changed or stamped with the wrong sender is
// found out in every run.
package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"time"

	"cline-meet/signal/signal/bench/measure"
)

// Options say what to measure and how.
type Options struct {
	measure.Options
	Server    string   // Server is host:port of the server under test.
	PID       int      // PID is its process, 0 when that is not known here.
	Command   string   // Command starts the server under test, if it does not run yet.
	Dialect   string   // Dialect is that of the server under test.
	Against   []string // Against start servers to compare with.
	Dialects  []string // Dialects are those of Against, in the same order; that of the server under test where there are none.
	Floor     string   // Floor starts an echo on our WebSocket library, if it is not empty.
	Scenarios []scenario
	Size      int // Size is that of an offer as it is sent, in bytes.
}

// target is one server.
type target struct {
	measure.Server
	dialect *dialect
	command string // command has started it, empty if it ran before.
}

// Report is what Run has found.
type Report struct {
	Results []result `json:"results"`           // Results are the medians, by scenario and server.
	Runs    []result `json:"runs,omitempty"`    // Runs are all runs, in their order.
	Servers []string `json:"servers,omitempty"` // Servers are their names, that under test first.
}

// Run measures all servers in turns, so that what else the machine does hits them alike.
func Run(ctx context.Context, o Options) (*Report, error) {
	targets, err := o.targets()
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, t := range targets {
			t.Stop()
		}
	}()
	for _, t := range targets {
		if err := t.start(ctx, o); err != nil {
			return nil, err
		}
	}
	if err := measure.PinProcess(o.Core); err != nil {
		return nil, err
	}
	report := new(Report)
	for _, t := range targets {
		report.Servers = append(report.Servers, t.Name)
	}
	err = o.Interleave(names(o.Scenarios), report.Servers, func(i, j int) error {
		return report.add(ctx, o.Scenarios[i], targets[j], o)
	})
	report.Results = measure.Summarize(report.Runs, func(r result) [2]string { return [2]string{r.Scenario, r.Server} }, median)
	return report, err
}

// add runs a scenario, unless it is none for the server.
func (r *Report) add(ctx context.Context, s scenario, t *target, o Options) error {
	if !s.suits(t.dialect) {
		return nil
	}
	got, err := run(ctx, s, t, o)
	if err != nil {
		return fmt.Errorf("%s against %s: %w", s.name, t.Name, err)
	}
	got.Scenario, got.Server = s.name, t.Name
	r.Runs = append(r.Runs, got)
	return nil
}

func run(ctx context.Context, s scenario, t *target, o Options) (result, error) {
	switch s.name {
	case idle:
		return idleClients(ctx, s, t, o)
	case trickle:
		return calls(ctx, s, t, o)
	case storm:
		return joinStorm(ctx, s, t, o)
	case slow:
		return slowReaders(ctx, s, t, o)
	case churn:
		return roam(ctx, s, t, o)
	}
	return traffic(ctx, s, t, o)
}

// targets are all servers that options name.
func (o Options) targets() ([]*target, error) {
	first, err := findDialect(o.Dialect)
	if err != nil {
		return nil, err
	}
	targets := []*target{{Server: measure.Server{Name: "signal", Address: o.Server, PID: o.PID}, dialect: first, command: o.Command}}
	for i, command := range o.Against {
		d := first
		if i < len(o.Dialects) {
			if d, err = findDialect(o.Dialects[i]); err != nil {
				return nil, err
			}
		}
		targets = append(targets, &target{dialect: d, command: command, Server: measure.Server{Name: freeName(targets, command)}})
	}
	if o.Floor != "" {
		targets = append(targets, &target{dialect: echoDialect, command: o.Floor, Server: measure.Server{Name: "floor"}})
	}
	return targets, nil
}

// freeName returns the name of a command's program, with a number when another server has it.
func freeName(others []*target, command string) string {
	program := path.Base(strings.Trim(strings.Fields(command + " server")[0], `'"`))
	name := program
	for n := 2; slices.ContainsFunc(others, func(t *target) bool { return t.Name == name }); n++ {
		name = fmt.Sprintf("%s-%d", program, n)
	}
	return name
}

// start starts a server that has a command.
func (t *target) start(ctx context.Context, o Options) error {
	if t.command == "" {
		return nil
	}
	return t.Launch(ctx, "tcp4", t.command, o.Pin, accepts)
}

// restart starts a server anew that was started here.
func (t *target) restart(ctx context.Context, o Options) error {
	if !t.Started() {
		return nil
	}
	t.Stop()
	return t.start(ctx, o)
}

// accepts reports whether a server takes connections.
func accepts(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// ErrVerify says that something was lost, doubled, changed or out of order.
var ErrVerify = errors.New("the server did not do what it must")

// Verified returns ErrVerify unless the server under test did all that it must.
func (r *Report) Verified() error {
	for _, m := range r.Results {
		if m.Server == r.Servers[0] && !m.verified() {
			return fmt.Errorf("%s: %w: %s", m.Scenario, ErrVerify, m.faultText())
		}
	}
	return nil
}
