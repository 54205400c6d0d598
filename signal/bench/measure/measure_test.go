package measure

import (
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestInterleaveTakesTurns(t *testing.T) {
	var got, told []string
	o := Options{Runs: 2, Progress: func(text string, _, all int) {
		if all != 8 {
			t.Errorf("%d runs are announced", all)
		}
		told = append(told, text)
	}}
	scenarios, servers := []string{"a", "b"}, []string{"1", "2"}
	err := o.Interleave(scenarios, servers, func(i, j int) error {
		got = append(got, scenarios[i]+" "+servers[j])
		return nil
	})
	want := []string{"a 1", "a 2", "a 1", "a 2", "b 1", "b 2", "b 1", "b 2"}
	if err != nil || !slices.Equal(got, want) || !slices.Equal(told, want) {
		t.Errorf("ran %v, told %v, %v", got, told, err)
	}
	broken := errors.New("broken")
	count := 0
	err = o.Interleave(scenarios, servers, func(int, int) error { count++; return broken })
	if !errors.Is(err, broken) || count != 1 {
		t.Errorf("went on %d times after %v", count, err)
	}
}

type run struct {
	scenario, server string
	cpu, p99         float64
}

func TestMedianIsOfEachValue(t *testing.T) {
	runs := []run{{"s", "x", 3, 10}, {"s", "y", 7, 7}, {"s", "x", 1, 30}, {"s", "x", 2, 20}}
	got := Summarize(runs, func(r run) [2]string { return [2]string{r.scenario, r.server} }, func(of []run) run {
		return Median(of, func(r *run) *float64 { return &r.cpu }, func(r *run) *float64 { return &r.p99 })
	})
	if want := []run{{"s", "x", 2, 20}, {"s", "y", 7, 7}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPercentiles(t *testing.T) {
	var samples []time.Duration
	for i := range 1000 {
		samples = append(samples, time.Duration(999-i)*time.Microsecond)
	}
	if got := Percentiles(samples, .5, .99); !slices.Equal(got, []float64{500, 990}) {
		t.Errorf("got %v", got)
	}
	if got := Percentiles(nil, .5); got[0] != 0 {
		t.Errorf("of nothing %v", got)
	}
}

func TestServerIsStartedWeighedAndStopped(t *testing.T) {
	if runtime.GOOS != "linux" {
		systemtest.Unable(t, "starting servers needs Linux")
	}
	s := &Server{Name: "burner"}
	file := t.TempDir() + "/port"
	there := func(address string) bool {
		_, port, _ := net.SplitHostPort(address)
		text, _ := os.ReadFile(file)
		return string(text) == port+" more\n"
	}
	defer s.Stop()
	command := "sh -c 'echo {port} {word} > " + file + "; while :; do :; done'"
	if err := s.Launch(t.Context(), "tcp4", command, 0, there, "{word}", "more"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); s.CPU() < 10*time.Millisecond; {
		if time.Now().After(deadline) {
			t.Fatalf("%v of CPU", s.CPU())
		}
		Pause(t.Context(), time.Millisecond)
	}
	if !s.Started() || s.Memory() < 100<<10 {
		t.Errorf("started: %v, %d bytes", s.Started(), s.Memory())
	}
	s.Stop()
	if s.CPU() != 0 || s.Memory() != 0 {
		t.Errorf("after its end %v, %d bytes", s.CPU(), s.Memory())
	}
}

func TestServerThatEndsIsNotWaitedFor(t *testing.T) {
	if runtime.GOOS != "linux" {
		systemtest.Unable(t, "starting servers needs Linux")
	}
	file := t.TempDir() + "/tries"
	s := &Server{Name: "none"}
	defer s.Stop()
	err := s.Launch(t.Context(), "udp4", "sh -c 'echo {port} >> "+file+"; exit 1'", -1, func(string) bool { return false })
	if !errors.Is(err, errEnded) {
		t.Errorf("a command that fails: %v", err)
	}
	if tries, _ := os.ReadFile(file); strings.Count(string(tries), "\n") != startTries {
		t.Errorf("it was tried with %q", tries)
	}
}
