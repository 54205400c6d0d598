// Package service is a node as whoever runs it sees it: its log and the signals that it is sent.
package service

import (
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

// NewLogger returns a logger that writes records from a level on, which may change while it is in use.
func NewLogger(w io.Writer, format string, level *slog.LevelVar) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == FormatJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
