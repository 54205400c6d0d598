package service

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/packaging/systemtest"
)

// TestPagesAndCompletionsNameEverySetting holds what the packages install against the flags.
func TestPagesAndCompletionsNameEverySetting(t *testing.T) {
	for _, args := range [][]string{{"man"}, {"completion", "fish"}} {
		text := strings.ReplaceAll(printed(t, args...), `\-`, "-")
		for _, f := range NewSettings().Table.Flags() {
			if !strings.Contains(text, f.Names()[0]) {
				t.Errorf("%v lacks %s", args, f.Names()[0])
			}
		}
	}
	page := printed(t, "man")
	for _, part := range []string{".SH ENVIRONMENT", `\fBTURN_SECRET\fP`, `\fBSIGNAL_CONFIG\fP`, ".SH FILES", "/etc/signal/signal.yaml", ".SH SIGNALS", "SIGHUP", ".SH EXIT STATUS"} {
		if !strings.Contains(page, part) {
			t.Errorf("the manual lacks %s", part)
		}
	}
	if err := exec.CommandContext(t.Context(), systemtest.Executable(t), "completion", "dos").Run(); err == nil || err.Error() != "exit status 1" {
		t.Errorf("completion dos: %v", err)
	}
}

// printed returns what the program prints.
func printed(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), systemtest.Executable(t), args...).Output()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return string(out)
}

// TestREADMENamesEverySetting holds the settings table of the README against the flags and --help.
func TestREADMENamesEverySetting(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	type setting struct{ flag, env string }
	var told, real []string
	for _, row := range regexp.MustCompile("(?m)^\\| `--([a-z-]+)` \\| `([A-Z_]+)` \\|").FindAllStringSubmatch(string(readme), -1) {
		told = append(told, fmt.Sprint(setting{row[1], row[2]}))
	}
	help := printed(t, "serve", "--help")
	for _, f := range NewSettings().Table.Flags() {
		name, env := f.Names()[0], f.(cli.DocGenerationFlag).GetEnvVars()
		want := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		if name == "config" {
			want = "SIGNAL_CONFIG"
		}
		if !slices.Equal(env, []string{want}) {
			t.Errorf("--%s has the variables %v, want %s", name, env, want)
			continue
		}
		real = append(real, fmt.Sprint(setting{name, env[0]}))
		if !regexp.MustCompile(`(?m)--` + name + `\b.*\[\$` + env[0] + `\]`).MatchString(help) {
			t.Errorf("--help lacks --%s with $%s", name, env[0])
		}
		if f.(cli.CategorizableFlag).GetCategory() == "" {
			t.Errorf("--%s has no category", name)
		}
	}
	slices.Sort(told)
	slices.Sort(real)
	real = slices.Compact(real) // One with fixed labels has a description for each of their values.
	if !slices.Equal(told, real) {
		t.Errorf("the settings differ:\nREADME %v\nflags  %v", told, real)
	}
}
