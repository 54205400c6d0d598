package measure

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Summarize returns one result for each scenario and server, in the order in which runs has them
// first. The key of a run names both; median makes one of all runs that have the same.
func Summarize[R any](runs []R, key func(R) [2]string, median func([]R) R) []R {
	var order [][2]string
	groups := map[[2]string][]R{}
	for _, run := range runs {
		k := key(run)
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], run)
	}
	var out []R
	for _, k := range order {
		out = append(out, median(groups[k]))
	}
	return out
}

// Median returns the first run with each of the values that are listed replaced by the one in the
// middle of all runs.
func Median[R any](runs []R, values ...func(*R) *float64) R {
	m := runs[0]
	for _, value := range values {
		var all []float64
		for i := range runs {
			all = append(all, *value(&runs[i]))
		}
		slices.Sort(all)
		*value(&m) = all[len(all)/2]
	}
	return m
}

// Percentiles sorts samples and returns those below which the given parts of them lie, in
// microseconds; 0 when there are none.
func Percentiles(samples []time.Duration, parts ...float64) []float64 {
	slices.Sort(samples)
	out := make([]float64, len(parts))
	for i, part := range parts {
		if len(samples) > 0 {
			at := samples[min(len(samples)-1, int(part*float64(len(samples))))]
			out[i] = float64(at.Nanoseconds()) / 1000
		}
	}
	return out
}

// Report is what a benchmark has found.
type Report interface {
	Print(w io.Writer) // Print writes a table.
}

// Show writes a report as a table or as JSON.
func Show(w io.Writer, r Report, asJSON bool) error {
	if !asJSON {
		r.Print(w)
		return nil
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

const barWidth = 30

// Bar returns a function for Options.Progress that draws a bar, and one that wipes it away. The bar
// stays in one line.
func Bar(w io.Writer) (progress func(text string, done, all int), wipe func()) {
	progress = func(text string, done, all int) {
		filled := barWidth * done / max(all, 1)
		fmt.Fprintf(w, "\r\033[K[%s%s] %d/%d %s", strings.Repeat("=", filled), strings.Repeat(" ", barWidth-filled), done, all, text)
	}
	return progress, func() { fmt.Fprint(w, "\r\033[K") }
}
