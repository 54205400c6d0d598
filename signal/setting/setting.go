// Package setting reads what a program can be told. Each package keeps its settings as a table of one
// line a setting: the name, where the value goes, its bounds and what it means. The rest follows from
// that: the flag, the environment variable, the key of the config file, the default, which is the value
// that is there when the table is made, and the words for what is wrong.
package setting

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// A Setting is one line of a table, and a flag of the CLI.
type Setting struct {
	cli.GenericFlag
	check   func() error // what is wrong with the value that is there now
	derives bool         // the default follows from others
	source  string       // where the value comes from, empty for the default
	empties bool         // an empty variable empties the value; otherwise it counts as not set
}

// newSetting makes a setting whose default is what value holds now.
func newSetting(name, usage string, value cli.Generic, check func() error) *Setting {
	return &Setting{
		GenericFlag: cli.GenericFlag{Name: name, Usage: usage, EnvVars: []string{variable(name)},
			Value: value, DefaultText: value.String()},
		check: check,
	}
}

// variable is the environment variable of a flag.
func variable(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

// flagName is the setting of a variable that has its name from the flag.
func flagName(variable string) string { return strings.ToLower(strings.ReplaceAll(variable, "_", "-")) }

// From names another environment variable than the one that follows from the name, or none.
func (s *Setting) From(variables ...string) *Setting {
	s.EnvVars = variables
	return s
}

// Otherwise says in the help what is used while the value is empty.
func (s *Setting) Otherwise(text string) *Setting {
	s.DefaultText = text
	return s
}

// Apply reads the environment and adds the flag to a set, as the CLI asks of its flags. Its error
// names the flag and the variable.
func (s *Setting) Apply(set *flag.FlagSet) error {
	set.Var(input{setting: s}, s.Name, s.Usage)
	return s.readEnvironment()
}

func (s *Setting) readEnvironment() error {
	for _, name := range s.EnvVars {
		text, found := os.LookupEnv(name)
		if !found || text == "" && !s.empties {
			continue
		}
		if err := s.set(text, "the environment"); err != nil {
			return fmt.Errorf("--%s: %w (from $%s)%s", s.Name, err, name, platformHint(text))
		}
	}
	return nil
}

// platformHint explains a value that nobody has written.
func platformHint(text string) string {
	if strings.HasPrefix(text, "tcp://") || strings.HasPrefix(text, "udp://") {
		return "; Kubernetes sets this for a Service of that name: turn enableServiceLinks off in the pod"
	}
	return ""
}

// set takes over a value, from wherever it came.
func (s *Setting) set(text, source string) error {
	s.HasBeenSet, s.source = true, source
	if err := s.Value.Set(text); err != nil {
		return err
	}
	if s.isDerived() {
		return fmt.Errorf("%q is less than 0", text)
	}
	return nil
}

// input is a setting as the flag of a command line.
type input struct {
	setting *Setting
	wrong   *Problems // takes what is wrong with the value, so that the command line is read on; or nil
}

func (in input) Set(text string) error {
	err := in.setting.set(text, "the command line")
	if in.wrong == nil {
		return err
	}
	in.wrong.Add(in.setting.Name, err)
	return nil
}

func (in input) String() string {
	if in.setting == nil {
		return "" // The flag package asks the zero value.
	}
	return in.setting.Value.String()
}

// IsBoolFlag says whether the flag alone means true.
func (in input) IsBoolFlag() bool { return !in.setting.TakesValue() }

// TakesValue says whether something must follow the flag on the command line.
func (s *Setting) TakesValue() bool {
	_, alone := s.Value.(*truth)
	return !alone
}

// String is the line of the flag in the help.
func (s *Setting) String() string { return cli.FlagStringer(s) }

// A Table is the settings of a package.
type Table []*Setting

// Category returns settings that the help lists under one heading.
func Category(heading string, rows ...*Setting) Table {
	for _, s := range rows {
		s.GenericFlag.Category = heading
	}
	return rows
}

// Flags returns the settings as flags of the CLI.
func (t Table) Flags() []cli.Flag {
	flags := make([]cli.Flag, len(t))
	for i, s := range t {
		flags[i] = s
	}
	return flags
}

// Pick returns the settings of some names; it panics when there is no such.
func (t Table) Pick(names ...string) Table {
	var out Table
	for _, name := range names {
		s := t.find(name)
		if s == nil {
			panic("there is no setting " + name)
		}
		out = append(out, s)
	}
	return out
}

func (t Table) names() []string {
	var names []string
	for _, s := range t {
		names = append(names, s.Name)
	}
	return names
}

// find returns the setting of a name, or nil.
func (t Table) find(name string) *Setting {
	i := slices.IndexFunc(t, func(s *Setting) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return t[i]
}

// Texts returns all values by name, as they would be given.
func (t Table) Texts() map[string]string {
	texts := map[string]string{}
	for _, s := range t {
		texts[s.Name] = s.Value.String()
	}
	return texts
}

// Derive gives a setting that nobody has set a value that follows from others.
func (t Table) Derive(name, value string) {
	if s := t.find(name); s.source == "" {
		_ = s.Value.Set(value)
	}
}

// Given says whether somebody has set one of some settings.
func (t Table) Given(names ...string) bool {
	return slices.ContainsFunc(t.Pick(names...), func(s *Setting) bool { return s.source != "" })
}

// Check adds every value that is not within its bounds to the problems.
func (t Table) Check(p *Problems) {
	for _, s := range t {
		p.Add(s.Name, s.check())
	}
}
