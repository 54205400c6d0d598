package setting

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// A Report says what was found good about the settings, a line each.
type Report []line

type line struct{ name, text string }

// Addf adds a line.
func (r *Report) Addf(name, format string, args ...any) {
	*r = append(*r, line{name, fmt.Sprintf(format, args...)})
}

// Print writes the report.
func (r Report) Print(w io.Writer) error {
	for _, l := range r {
		if _, err := fmt.Fprintf(w, "ok       %s: %s\n", l.name, l.text); err != nil {
			return err
		}
	}
	return nil
}

// Sources says where the settings come from that are not their defaults: names alone, since values may be secret.
func (t Table) Sources() string {
	from := map[string][]string{}
	for _, s := range t {
		if s.source != "" {
			from[s.source] = append(from[s.source], s.Name)
		}
	}
	var texts []string
	for _, source := range slices.Sorted(maps.Keys(from)) {
		texts = append(texts, source+" sets "+strings.Join(from[source], ", "))
	}
	if len(texts) == 0 {
		return "all defaults"
	}
	return strings.Join(texts, "; ")
}
