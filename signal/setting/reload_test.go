package setting

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestTakeOver(t *testing.T) {
	before := defaults().table().Texts()
	o := defaults()
	o.host, o.count, o.port, o.rate = "there", 8, 81, 0.75
	var called []string
	live := map[string]func() error{}
	for name, answer := range map[string]error{"the-host": nil, "the-count": ErrRestart, "the-rate": errors.New("too fast"), "be-on": nil} {
		live[name] = func() error { called = append(called, name); return answer }
	}
	taken, waiting, err := o.table().TakeOver(before, live)
	if !slices.Equal(taken, []string{"the-host"}) || !slices.Equal(waiting, []string{"the-count", "the-port"}) ||
		err == nil || err.Error() != "--the-rate: too fast" {
		t.Errorf("taken over %q, waiting %q, failed %v", taken, waiting, err)
	}
	if !slices.Equal(called, []string{"the-host", "the-count", "the-rate"}) {
		t.Errorf("called %q: what has not changed is left alone", called)
	}
	taken, waiting, _ = o.table().TakeOver(before, live)
	if len(taken) != 0 || strings.Join(waiting, " ") != "the-count the-port" {
		t.Errorf("again taken over %q, waiting %q", taken, waiting)
	}
}
