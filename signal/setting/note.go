package setting

import (
	"context"
	"fmt"
	"io"
	"log/slog"
)

// A Note tells whoever runs the program what about it is open, unsafe or most likely not meant, although it may be.
type Note struct {
	Code  string     // Code is stable, for alerts and scripts.
	Level slog.Level // Level is slog.LevelWarn where something should be done.
	Text  string
}

// Notes collects what is to be told.
type Notes []Note

// Warnf adds a note that something should be done about.
func (n *Notes) Warnf(code, format string, args ...any) {
	*n = append(*n, Note{code, slog.LevelWarn, fmt.Sprintf(format, args...)})
}

// Tellf adds a note that is good to know.
func (n *Notes) Tellf(code, format string, args ...any) {
	*n = append(*n, Note{code, slog.LevelInfo, fmt.Sprintf(format, args...)})
}

// Log logs every note as a record with its code.
func (n Notes) Log(log *slog.Logger) {
	for _, note := range n {
		log.Log(context.Background(), note.Level, note.Text, "code", note.Code)
	}
}

// Print writes the notes for a person, a line each.
func (n Notes) Print(w io.Writer) error {
	for _, note := range n {
		word := map[slog.Level]string{slog.LevelWarn: "warning", slog.LevelInfo: "note"}[note.Level]
		if _, err := fmt.Fprintf(w, "%-8s %s (%s)\n", word, note.Text, note.Code); err != nil {
			return err
		}
	}
	return nil
}
