package setting

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// prefixes are what the names of variables begin with that are ours most likely.
var prefixes = []string{"TURN_", "STUN_", "REDIS_", "STATE_", "SIGNAL_"}

// fromPlatform matches the variables that container platforms make for services.
var fromPlatform = regexp.MustCompile(`^[A-Z0-9_]+(_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)|=(tcp|udp)://)`)

// stateDirectory is the variable in which systemd names what StateDirectory= of the unit made.
const stateDirectory = "STATE_DIRECTORY"

// Strangers finds variables that are none of the settings but were most likely meant to be: their names are almost
// those of settings, or begin as ours do. The environment is as os.Environ returns it.
func (t Table) Strangers(environment []string) Notes {
	var known []string
	for _, s := range t {
		known = append(known, s.EnvVars...)
	}
	var notes Notes
	for _, pair := range slices.Sorted(slices.Values(environment)) {
		name, _, _ := strings.Cut(pair, "=")
		if slices.Contains(known, name) || name == stateDirectory {
			continue
		}
		near := Nearest(strings.ToUpper(name), known)
		ours := slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) && !fromPlatform.MatchString(pair)
		switch {
		case near != "":
			notes.Warnf("unknown_variable", "%s is no setting: did you mean %s?", name, near)
		case ours:
			notes.Warnf("unknown_variable", "%s is no setting: signal serve --help lists them all", name)
		}
	}
	return notes
}

// Quoted finds values of variables in quotation marks, which a shell would have taken away and others did not.
func (t Table) Quoted(environment []string) Notes {
	var notes Notes
	for _, pair := range environment {
		name, value, _ := strings.Cut(pair, "=")
		isOurs := slices.ContainsFunc(t, func(s *Setting) bool { return slices.Contains(s.EnvVars, name) })
		if isOurs && len(value) > 1 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			notes.Warnf("quoted_value", "%s has quotation marks that are part of its value: leave them out", name)
		}
	}
	return notes
}

// Spaced finds texts that begin or end with white space, such as the line break of a file that a secret was made from. It
// is part of the value, which fits nowhere then.
func (t Table) Spaced() Notes {
	var notes Notes
	for _, s := range t {
		if value, ok := s.Value.(*text); ok && s.source != "" && strings.TrimSpace(string(*value)) != string(*value) {
			notes.Warnf("white_space_in_value", "--%s, from %s, begins or ends with white space that is part of its value: leave it out", s.Name, s.source)
		}
	}
	return notes
}

// leastBeginning is the length of what can be taken for the beginning of a name.
const leastBeginning = 3

// Nearest returns the one among names that somebody meant who wrote text, or nothing. One mistake may be in it, in a
// longer text two: a character too many, too few, another one, or two in the wrong order.
func Nearest(text string, names []string) string {
	limit := 1
	if len(text) >= 10 {
		limit = 2
	}
	best := ""
	for _, name := range names {
		if d := distance(text, name); d <= limit {
			limit, best = d, name
		}
	}
	return best
}

// DidYouMean ends a message about an unknown name with the one that was meant, if it is known, or that begins as it does.
func DidYouMean(prefix, text string, names []string) string {
	near := Nearest(text, names)
	if i := slices.IndexFunc(names, func(name string) bool { return strings.HasPrefix(name, text) }); near == "" && i >= 0 && len(text) >= leastBeginning {
		near = names[i]
	}
	if near != "" {
		return fmt.Sprintf("; did you mean %s%s?", prefix, near)
	}
	return ""
}

// distance counts the mistakes that make one text of the other.
func distance(a, b string) int {
	row := func() []int { return make([]int, len(b)+1) }
	before, last, next := row(), row(), row()
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			next[j] = min(last[j]+1, next[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, last, next = last, next, before
	}
	return last[len(b)]
}
