package engine

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pion/logging"
)

// levelPacket is below debug, because pion says something about every
// packet, which would drown what a person looks for in debug mode.
const levelPacket = slog.LevelDebug - 4

// Logs hands the libraries of pion loggers that write to a slog.Logger. Nothing they
// say goes above debug: what they call an error is what any stranger can make them
// say.
func Logs(log *slog.Logger) logging.LoggerFactory { return logs{log} }

type logs struct{ log *slog.Logger }

// NewLogger implements logging.LoggerFactory.
func (f logs) NewLogger(scope string) logging.LeveledLogger {
	return pionLog{f.log.With("scope", scope)}
}

type pionLog struct{ log *slog.Logger }

func (l pionLog) print(level slog.Level, text string) {
	l.log.Log(context.Background(), level, text)
}

// printf formats only what will be seen.
func (l pionLog) printf(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.print(level, fmt.Sprintf(format, args...))
	}
}

func (l pionLog) Trace(text string)                 { l.print(levelPacket, text) }
func (l pionLog) Tracef(format string, args ...any) { l.printf(levelPacket, format, args) }
func (l pionLog) Debug(text string)                 { l.print(levelPacket, text) }
func (l pionLog) Debugf(format string, args ...any) { l.printf(levelPacket, format, args) }
func (l pionLog) Info(text string)                  { l.print(slog.LevelDebug, text) }
func (l pionLog) Infof(format string, args ...any)  { l.printf(slog.LevelDebug, format, args) }
func (l pionLog) Warn(text string)                  { l.print(slog.LevelDebug, text) }
func (l pionLog) Warnf(format string, args ...any)  { l.printf(slog.LevelDebug, format, args) }
func (l pionLog) Error(text string)                 { l.print(slog.LevelDebug, text) }
func (l pionLog) Errorf(format string, args ...any) { l.printf(slog.LevelDebug, format, args) }
