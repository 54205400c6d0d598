package packaging_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cline-meet/signal/packaging/systemtest"
)

// TestUnknownCommandIsNamed types a command wrong.
func TestUnknownCommandIsNamed(t *testing.T) {
	for typed, meant := range map[string]string{"sevre": "signal serve", "heal": "signal health", "credential": "signal credentials", "nonsense": "signal --help"} {
		said, err := command(t, nil, systemtest.Executable(t), typed)
		if exitStatus(err) != 1 || !strings.Contains(said, `"`+typed+`"`) || !strings.Contains(said, meant) {
			t.Errorf("%s: %v, %s", typed, err, said)
		}
	}
}

// exitStatus returns how a program ended, 0 also for one that could not be run.
func exitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// TestBashCompletion has bash itself complete.
func TestBashCompletion(t *testing.T) {
	binary := systemtest.Executable(t)
	for words, want := range map[string]string{"hea": "health", "serve --turn-r": "--turn-realm --turn-relay-ip"} {
		script := `source <(signal completion bash); COMP_WORDS=(signal ` + words + `)
			COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _signal; echo "${COMPREPLY[@]}"`
		cmd := exec.Command("bash", "-c", script)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%q completes to %q (%v), want %q", words, out, err, want)
		}
	}
}
