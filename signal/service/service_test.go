package service

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journalPipe is a pipe that the environment calls the journal's.
func journalPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	info, err := w.Stat()
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", stat.Dev, stat.Ino))
	return r, w
}

func TestJournalHearsPriorities(t *testing.T) {
	for _, format := range []string{FormatText, FormatJSON} {
		r, w := journalPipe(t)
		level := new(slog.LevelVar)
		SetLevel(level, "debug")
		log := NewLogger(w, format, level).With("a", 1).WithGroup("g")
		log.Debug("d")
		log.Info("i", "two", "lines\nin a value")
		log.Warn("w")
		log.Error("e")
		SetLevel(level, "warn")
		log.Info("not any more")
		Fail(w, errors.New("one\ntwo"))
		_ = w.Close()
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		var priorities []string
		for line := range strings.Lines(string(text)) {
			priorities = append(priorities, line[:3])
			if format == FormatJSON && !strings.HasPrefix(line[3:], "{") && !strings.Contains("signal: one two", strings.TrimSpace(line[3:])) {
				t.Errorf("not JSON after the priority: %s", line)
			}
		}
		if got := strings.Join(priorities, ""); got != "<7><6><4><3><3><3>" {
			t.Errorf("%s: priorities %s of\n%s", format, got, text)
		}
	}
}

func TestNoPrioritiesElsewhere(t *testing.T) {
	_, journal := journalPipe(t)
	var out strings.Builder
	NewLogger(&out, FormatText, new(slog.LevelVar)).Warn("w")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	NewLogger(w, FormatText, new(slog.LevelVar)).Warn("w")
	_ = w.Close()
	piped, _ := io.ReadAll(r)
	_ = r.Close()
	if text := out.String() + string(piped); strings.Contains(text, "<4>") || strings.Count(text, "level=WARN") != 2 {
		t.Errorf("while %v is the journal, elsewhere is written:\n%s", journal.Name(), text)
	}
}

func TestSystemdIsTold(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	manager := systemtest.StartManager(t)
	Tell(log, Ready)
	manager.Hears("READY=1")
	Reloading(log)
	manager.Hears(`RELOADING=1\nMONOTONIC_USEC=\d+\n`)
	Tell(log, Stopping)
	manager.Hears("STOPPING=1")
}

// TestWatchdogHearsOfTheLiving stops to be alive after a while.
func TestWatchdogHearsOfTheLiving(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	Watch(log, func() { t.Error("nobody watches") })()
	manager := systemtest.StartManager(t)
	t.Setenv("WATCHDOG_USEC", "2000")
	var calls atomic.Int32
	stuck, free := make(chan struct{}), make(chan struct{})
	stop := Watch(log, func() {
		if calls.Add(1) == 4 {
			close(stuck)
			<-free
		}
	})
	<-stuck
	for range 3 {
		manager.Hears("WATCHDOG=1")
	}
	if told := manager.Within(20 * time.Millisecond); told != "" {
		t.Errorf("systemd hears %q of who is stuck", told)
	}
	close(free)
	stop()
}

func TestHangupsAreServed(t *testing.T) {
	h := CatchHangups()
	defer h.Release()
	send := func() {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	send() // Before anybody serves it, as during the start.
	served := make(chan struct{})
	stop := h.Serve(func() { served <- struct{}{} })
	<-served
	send()
	<-served
	stop()
	send() // As during the stop.
}
