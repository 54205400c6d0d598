package setting

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// Problems collects what is wrong with settings, so that all of it is said at once.
type Problems []error

// Add adds a problem of a setting, unless err is nil.
func (p *Problems) Add(name string, err error) {
	if err != nil {
		*p = append(*p, fmt.Errorf("--%s: %w", name, err))
	}
}

// Addf adds a problem of a setting.
func (p *Problems) Addf(name, format string, args ...any) {
	p.Add(name, fmt.Errorf(format, args...))
}

// Check adds a problem of a setting unless ok.
func (p *Problems) Check(ok bool, name, format string, args ...any) {
	if !ok {
		p.Addf(name, format, args...)
	}
}

// Err returns one error of all problems, a line each, or nil when there is none.
func (p Problems) Err() error { return errors.Join(p...) }

// Stray says what may have been meant with an argument that is no flag, if there is one.
func (t Table) Stray(arg string) error {
	switch {
	case arg == "":
		return nil
	case t.find(arg) != nil:
		return fmt.Errorf("%q: unexpected argument; did you mean --%s?", arg, arg)
	case new(truth).Set(arg) == nil:
		return fmt.Errorf("%q: unexpected argument; after what is true or false it needs a =, as in --turn-enabled=false", arg)
	}
	return fmt.Errorf("%q: unexpected argument", arg)
}

// Wrong joins what is wrong with the settings into the one error that a command ends with, or none.
func Wrong(problems ...error) error {
	err := errors.Join(problems...)
	if err == nil {
		return nil
	}
	return fmt.Errorf("wrong settings (signal serve --help lists them all):\n  %s", strings.ReplaceAll(err.Error(), "\n", "\n  "))
}

// Reread finds all that is wrong with the environment and a command line, after the CLI has stopped at
// the first failure: it reads both once more and goes on after each. The set has the flags of the
// command that are no settings.
func (t Table) Reread(set *flag.FlagSet, args []string) Problems {
	var p Problems
	set.SetOutput(io.Discard)
	for _, s := range t {
		if err := s.readEnvironment(); err != nil {
			p = append(p, err)
		}
		set.Var(input{s, &p}, s.Name, s.Usage)
	}
	for len(args) > 0 {
		err := set.Parse(args)
		args = set.Args()
		switch {
		case err != nil:
			p = append(p, inWords(err, set))
		case len(args) > 0:
			args = args[1:] // A stray argument, most likely the value of an unknown flag.
		}
	}
	return p
}

// inWords says what the flag package has against a command line.
func inWords(err error, set *flag.FlagSet) error {
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		var names []string
		set.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
		return fmt.Errorf("--%s: no such setting%s", name, DidYouMean("--", name, names))
	}
	if name, ok := strings.CutPrefix(err.Error(), "flag needs an argument: -"); ok {
		return fmt.Errorf("--%s: a value must follow", name)
	}
	return err
}
