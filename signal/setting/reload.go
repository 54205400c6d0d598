package setting

import (
	"errors"
	"fmt"
)

// ErrRestart is what a value is answered with that a running program cannot take over.
var ErrRestart = errors.New("needs a restart")

// TakeOver calls for every setting whose text differs from that in current what takes it over while the program
// runs, and notes the text there. It returns the names of those that were taken over and of those that wait for
// a restart; among these are all that live does not name.
func (t Table) TakeOver(current map[string]string, live map[string]func() error) (taken, waiting []string, err error) {
	var failed []error
	for _, s := range t {
		text := s.Value.String()
		if text == current[s.Name] {
			continue
		}
		err := ErrRestart
		if take := live[s.Name]; take != nil {
			err = take()
		}
		switch {
		case err == nil:
			current[s.Name] = text
			taken = append(taken, s.Name)
		case errors.Is(err, ErrRestart):
			waiting = append(waiting, s.Name)
		default:
			failed = append(failed, fmt.Errorf("--%s: %w", s.Name, err))
		}
	}
	return taken, waiting, errors.Join(failed...)
}
