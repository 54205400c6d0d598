package check

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

var signs = map[Mark]string{Good: "✓", Wrong: "✗", Skipped: "–"}

// Print writes results for a person.
func Print(w io.Writer, results []Result) error {
	target, wrong := "", 0
	for _, r := range results {
		if r.Target != target {
			target = r.Target
			if _, err := fmt.Fprintf(w, "%s\n", target); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "  %s %-15s %s\n", signs[r.Mark], r.Name, r.Detail); err != nil {
			return err
		}
		if r.Mark == Wrong {
			wrong++
			if _, err := fmt.Fprintf(w, "    %-15s → %s\n", "", r.Remedy); err != nil {
				return err
			}
		}
	}
	summary := "nothing is wrong"
	if wrong > 0 {
		summary = fmt.Sprintf("%d wrong (✗)", wrong)
	}
	_, err := fmt.Fprintf(w, "%s; – could not be tried, or is not offered\n", summary)
	return err
}

// PrintJSON writes results for a program.
func PrintJSON(w io.Writer, results []Result) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(struct {
		OK     bool     `json:"ok"`
		Checks []Result `json:"checks"`
	}{!failed(results), results})
}

func failed(results []Result) bool {
	return slices.ContainsFunc(results, func(r Result) bool { return r.Mark == Wrong })
}
