package turnsrv

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pion/logging"
)

// levelPacket is below debug, because the engine says something about every
// packet, which would drown what a person looks for in debug mode.
const levelPacket = slog.LevelDebug - 4

// engineLogs hands the engine loggers that write to a slog.Logger. Nothing the
// engine says goes above debug: what it calls an error is what any stranger can
// make it say.
type engineLogs struct{ log *slog.Logger }

// NewLogger implements logging.LoggerFactory.
func (f engineLogs) NewLogger(scope string) logging.LeveledLogger {
	return engineLog{f.log.With("scope", scope)}
}

type engineLog struct{ log *slog.Logger }

func (l engineLog) print(level slog.Level, text string) {
	l.log.Log(context.Background(), level, text)
}

// printf formats only what will be seen.
func (l engineLog) printf(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.print(level, fmt.Sprintf(format, args...))
	}
}

func (l engineLog) Trace(text string)                 { l.print(levelPacket, text) }
func (l engineLog) Tracef(format string, args ...any) { l.printf(levelPacket, format, args) }
func (l engineLog) Debug(text string)                 { l.print(levelPacket, text) }
func (l engineLog) Debugf(format string, args ...any) { l.printf(levelPacket, format, args) }
func (l engineLog) Info(text string)                  { l.print(slog.LevelDebug, text) }
func (l engineLog) Infof(format string, args ...any)  { l.printf(slog.LevelDebug, format, args) }
func (l engineLog) Warn(text string)                  { l.print(slog.LevelDebug, text) }
func (l engineLog) Warnf(format string, args ...any)  { l.printf(slog.LevelDebug, format, args) }
func (l engineLog) Error(text string)                 { l.print(slog.LevelDebug, text) }
func (l engineLog) Errorf(format string, args ...any) { l.printf(slog.LevelDebug, format, args) }
