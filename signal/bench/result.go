package bench

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"cline-meet/signal/signal/bench/measure"
)

// result is what one run of a scenario against one server has found.
type result struct {
	Scenario string  `json:"scenario"`
	Server   string  `json:"server"`
	Seconds  float64 `json:"seconds"`

	Delivered uint64  `json:"delivered,omitempty"`
	Rate      float64 `json:"messages_per_second,omitempty"`
	CPU       float64 `json:"cpu_us_per_message,omitempty"` // CPU is 0 when the server's process is not known.
	Load      float64 `json:"cpu_cores,omitempty"`
	Generator float64 `json:"generator_cores,omitempty"`
	P50       float64 `json:"p50_us,omitempty"` // From the moment at which a message was to be sent.
	P99       float64 `json:"p99_us,omitempty"`
	Late      float64 `json:"generator_late_p99_us,omitempty"` // Late is how late the generator was, which is part of P99.
	P99Alone  float64 `json:"p99_alone_us,omitempty"`          // P99Alone is before the slow clients stopped to read.
	Memory    float64 `json:"bytes_per_connection,omitempty"`
	IdleCPU   float64 `json:"idle_cores_per_10000,omitempty"`
	All       float64 `json:"all_seen_ms,omitempty"` // All is when everybody had seen everybody.
	Resumes   uint64  `json:"resumes,omitempty"`
	Dropped   uint64  `json:"dropped_readers,omitempty"` // Dropped are slow clients that the server has closed.

	Lost      uint64 `json:"lost,omitempty"`
	Doubled   uint64 `json:"doubled,omitempty"`
	Reordered uint64 `json:"reordered,omitempty"`
	Corrupt   uint64 `json:"corrupt,omitempty"`
	Forged    uint64 `json:"wrong_sender,omitempty"`
	Acks      uint64 `json:"wrong_acks,omitempty"`  // Acks are those that did not come, came twice or for nothing.
	Views     uint64 `json:"wrong_views,omitempty"` // Views are clients that see others in their room than there are.
	Errors    uint64 `json:"errors,omitempty"`
	Trouble   string `json:"first_error,omitempty"`
}

// setPercentiles tells how long messages took.
func (r *result) setPercentiles(samples []time.Duration) {
	p := measure.Percentiles(samples, .5, .99)
	r.P50, r.P99 = p[0], p[1]
}

// faults returns what must be 0.
func (r *result) faults() []*uint64 {
	return []*uint64{&r.Lost, &r.Doubled, &r.Reordered, &r.Corrupt, &r.Forged, &r.Acks, &r.Views, &r.Errors}
}

var faultNames = []string{"lost", "doubled", "reordered", "corrupt", "wrong sender", "wrong acks", "wrong views", "errors"}

// verified reports whether all was as it must be.
func (r *result) verified() bool { return r.faultText() == "" }

// faultText names what was not, empty when all was.
func (r *result) faultText() string {
	var out []string
	for i, n := range r.faults() {
		if *n > 0 {
			out = append(out, fmt.Sprintf("%s %d", faultNames[i], *n))
		}
	}
	if r.Trouble != "" {
		out = append(out, "first error: "+r.Trouble)
	}
	return strings.Join(out, ", ")
}

// median returns the values that are in the middle, each for itself; faults are those of all runs.
func median(runs []result) result {
	type value = *float64
	m := measure.Median(runs,
		func(r *result) value { return &r.Rate }, func(r *result) value { return &r.CPU },
		func(r *result) value { return &r.Load }, func(r *result) value { return &r.Generator },
		func(r *result) value { return &r.P50 }, func(r *result) value { return &r.P99 }, func(r *result) value { return &r.Late },
		func(r *result) value { return &r.P99Alone }, func(r *result) value { return &r.Memory },
		func(r *result) value { return &r.IdleCPU }, func(r *result) value { return &r.All },
	)
	for i, sum := range m.faults() {
		for _, run := range runs[1:] {
			*sum += *run.faults()[i]
			if m.Trouble == "" {
				m.Trouble = run.Trouble
			}
		}
	}
	return m
}

// Print writes the medians as a table, with ratios of the server under test to the others.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "%-9s %-12s %10s %10s %6s %8s %8s %8s\n", "", "server", "messages/s", "cpu µs/msg", "ratio", "p50 ms", "p99 ms", "late ms")
	for _, m := range r.Results {
		fmt.Fprintf(w, "%-9s %-12s %s", m.Scenario, m.Server, m.row(r.ratio(m)))
		if text := m.faultText(); text != "" {
			fmt.Fprintf(w, "  %s", strings.ToUpper(text[:1])+text[1:])
		}
		fmt.Fprintln(w)
	}
}

func (r *result) row(ratio string) string {
	switch r.Scenario {
	case idle:
		return fmt.Sprintf("%10.1f %10.2f %6s   KB a connection, %% of a core for 10,000", r.Memory/1024, 100*r.IdleCPU, ratio)
	case storm:
		return fmt.Sprintf("%10d %10.1f %6s   clients, µs for each; all saw all after %.0f ms", r.Delivered, r.CPU, ratio, r.All)
	case churn:
		return fmt.Sprintf("%10.0f %10.1f %6s   %d resumes", r.Rate, r.CPU, ratio, r.Resumes)
	}
	row := fmt.Sprintf("%10.0f %10.2f %6s %8.2f %8.2f %8.2f", r.Rate, r.CPU, ratio, r.P50/1000, r.P99/1000, r.Late/1000)
	if r.Scenario == slow {
		row += fmt.Sprintf("  p99 to %.2f ms before, x %.2f, %d readers dropped", r.P99Alone/1000, r.P99/max(r.P99Alone, 1), r.Dropped)
	}
	return row
}

// ratio says what the server under test needs of what another one needs.
func (r *Report) ratio(other result) string {
	for _, first := range r.Results {
		if first.Scenario != other.Scenario || first.Server != r.Servers[0] || other.Server == first.Server {
			continue
		}
		of, to := first.CPU, other.CPU
		if other.Scenario == idle {
			of, to = first.Memory, other.Memory
		}
		if to > 0 {
			return strconv.FormatFloat(of/to, 'f', 2, 64)
		}
	}
	return ""
}
