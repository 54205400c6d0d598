package setting

import (
	"errors"
	"fmt"
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
