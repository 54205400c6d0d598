// Package service is a node as whoever runs it sees it: its settings, its log, the signals that it is sent, and what it
// tells systemd.
package service

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
)

// Formats of the log.
const (
	FormatText = "text" // FormatText is for people.
	FormatJSON = "json"
)

// Levels are the names of the levels that a log may have.
var Levels = []string{"debug", "info", "warn", "error"}

// SetLevel sets a level by its name, one of Levels.
func SetLevel(level *slog.LevelVar, name string) {
	_ = level.UnmarshalText([]byte(name)) // It fails for other names only.
}

// NewLogger returns a logger that writes records from a level on, which may change while it is in use. Where the
// journal reads, every line begins with its priority, so that journalctl -p finds warnings.
func NewLogger(w io.Writer, format string, level *slog.LevelVar) *slog.Logger {
	if !isJournal(w) {
		return slog.New(newHandler(w, format, level))
	}
	var j journal
	for i, priority := range priorities {
		j[i] = newHandler(prioritized{w, priority}, format, level)
	}
	return slog.New(j)
}

func newHandler(w io.Writer, format string, level *slog.LevelVar) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	if format == FormatJSON {
		return slog.NewJSONHandler(w, options)
	}
	return slog.NewTextHandler(w, options)
}

// The priorities of sd-daemon(3), of debug, info, warn and error.
var priorities = [4]string{"<7>", "<6>", "<4>", "<3>"}

// journal has a handler for each priority.
type journal [len(priorities)]slog.Handler

func (j journal) of(level slog.Level) slog.Handler {
	switch {
	case level >= slog.LevelError:
		return j[3]
	case level >= slog.LevelWarn:
		return j[2]
	case level >= slog.LevelInfo:
		return j[1]
	}
	return j[0]
}

func (j journal) Enabled(ctx context.Context, level slog.Level) bool { return j[0].Enabled(ctx, level) }

func (j journal) Handle(ctx context.Context, r slog.Record) error {
	return j.of(r.Level).Handle(ctx, r)
}

func (j journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	for i, h := range j {
		j[i] = h.WithAttrs(attrs)
	}
	return j
}

func (j journal) WithGroup(name string) slog.Handler {
	for i, h := range j {
		j[i] = h.WithGroup(name)
	}
	return j
}

// prioritized begins every line with a priority.
type prioritized struct {
	w        io.Writer
	priority string
}

// Write gets whole lines. One call writes them, so that those of other priorities do not get between.
func (p prioritized) Write(lines []byte) (int, error) {
	var out []byte
	for line := range bytes.Lines(lines) {
		out = append(append(out, p.priority...), line...)
	}
	if _, err := p.w.Write(out); err != nil {
		return 0, err
	}
	return len(lines), nil
}

// Fail writes why the program ends.
func Fail(w io.Writer, err error) {
	if isJournal(w) {
		w = prioritized{w, priorities[len(priorities)-1]}
	}
	_, _ = fmt.Fprintf(w, "signal: %v\n", err)
}
