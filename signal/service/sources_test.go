package service

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// TestEveryTimeIsSecondsOrHasAUnit reads both forms into every setting that is a time.
func TestEveryTimeIsSecondsOrHasAUnit(t *testing.T) {
	times := 0
	for _, s := range NewSettings().Table {
		if fmt.Sprintf("%T", s.Value) != "*setting.duration" {
			continue
		}
		times++
		for text, want := range map[string]string{"30": "30", "30s": "30", "1m30s": "90", "0.5": "0.5", "500ms": "0.5"} {
			if err := s.Value.Set(text); err != nil || s.Value.String() != want {
				t.Errorf("--%s %s is %s seconds (%v)", s.Name, text, s.Value, err)
			}
		}
	}
	if times == 0 {
		t.Error("there is no time among the settings")
	}
}

func TestPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "signal.yaml")
	text := "server-port: 1\nread-timeout: 1\nmax-room-users: 1\nturn-listen: [127.0.0.1, \"::1\"]\nturn-enabled: false\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SERVER_PORT", "2")
	t.Setenv("READ_TIMEOUT", "2")
	s := NewSettings()
	app := &cli.App{Flags: s.Table.Flags(), Writer: io.Discard, Action: s.Complete}
	if err := app.Run([]string{"signal", "--config", file, "--server-port", "3"}); err != nil {
		t.Fatal(err)
	}
	if s.Signal.Port != 3 || s.Signal.ReadTimeout != 2*time.Second || s.Signal.MaxRoomUsers != 1 ||
		s.Signal.WriteTimeout != time.Minute || s.TURN.Enabled || !slices.Equal(s.TURN.Listen, []string{"127.0.0.1", "::1"}) {
		t.Errorf("settings %+v %+v", s.Signal, s.TURN)
	}
}
