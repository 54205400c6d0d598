package service

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestNodeArguments(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cmdline")
	for text, want := range map[string][]string{
		"/signal\x00serve\x00--server-port\x0081\x00": {"/signal", "serve", "--server-port", "81"}, "signal\x00serve\x00": {"signal", "serve"},
		"/sbin/init\x00": nil, "/signal\x00": nil, "sh\x00serve\x00": nil, "": nil, "/signal\x00bench\x00ws\x00": nil,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := nodeArguments(file); !slices.Equal(got, want) {
			t.Errorf("%q: %q", text, got)
		}
	}
	if got := nodeArguments("/does/not/exist"); got != nil {
		t.Errorf("without a process: %q", got)
	}
}
