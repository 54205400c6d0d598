package certificate

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// quiet returns a log for certmagic, which tells every step: all of it is for diagnosis. What matters comes back as an
// error and is told once.
func quiet(log *slog.Logger) *zap.Logger { return zap.New(&debugCore{log: log}) }

// debugCore writes what zap is told to a log, at debug.
type debugCore struct {
	log    *slog.Logger
	fields []zapcore.Field
}

// Enabled implements zapcore.Core.
func (c *debugCore) Enabled(zapcore.Level) bool {
	return c.log.Enabled(context.Background(), slog.LevelDebug)
}

// With implements zapcore.Core.
func (c *debugCore) With(fields []zapcore.Field) zapcore.Core {
	return &debugCore{c.log, append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

// Check implements zapcore.Core.
func (c *debugCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *debugCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	all := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(all)
	}
	c.log.Debug("ACME: "+e.Message, "level", e.Level.String(), "details", all.Fields)
	return nil
}

// Sync implements zapcore.Core.
func (c *debugCore) Sync() error { return nil }
