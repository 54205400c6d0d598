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
			p = append(p, err)
		case len(args) > 0:
			args = args[1:] // A stray argument, most likely the value of an unknown flag.
		}
	}
	return p
}
