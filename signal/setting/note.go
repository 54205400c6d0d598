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

// NoteProxies adds what is most likely not meant with the addresses, which are valid, of proxies in the setting of a name.
func (n *Notes) NoteProxies(name string, cidrs []string) {
	for _, text := range cidrs {
		switch p, _ := ParsePrefix(text); {
		case p.Bits() == 0:
			n.Warnf("trusts_everybody", "--%s %s lets everybody choose the address that limits and logs see: name the proxies alone", name, text)
		case p.Masked() != p:
			n.Warnf("bits_beyond_length", "--%s %s has bits beyond its length, and means all of %s: write that, or the address alone", name, text, p.Masked())
		}
	}
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
