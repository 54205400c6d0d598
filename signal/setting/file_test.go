package setting

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// write makes a file of settings.
func write(t *testing.T, text string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "settings.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestFileFillsWhatIsNotSet(t *testing.T) {
	t.Setenv("THE_PORT", "81")
	o := defaults()
	table := o.table()
	if p := table.Reread(flag.NewFlagSet("x", flag.ContinueOnError), []string{"--the-rate", "1"}); p.Err() != nil {
		t.Fatal(p)
	}
	file := write(t, "the-host: 0x10\nthe-names: [a, \"b\", 3]\nbe-on: true\nthe-count: 9\nthe-port: 82\nthe-rate: 2\nthe-wait: 3e-05\nthe-policy:\n")
	if p := table.ReadFile("config", file); p.Err() != nil {
		t.Fatal(p)
	}
	if o.host != "0x10" || !slices.Equal(o.names, []string{"a", "b", "3"}) || !o.on || o.count != 9 || o.wait != 30*time.Microsecond {
		t.Errorf("what the file alone sets: %+v", *o)
	}
	if o.port != 81 || o.rate != 1 {
		t.Errorf("what a variable and a flag set became %d, %v", o.port, o.rate)
	}
	if p := table.ReadFile("config", ""); p.Err() != nil {
		t.Errorf("no file: %v", p)
	}
}

// TestFileIsReadAsItIsWritten: a text stays what it is in the source, whatever YAML would make of it, and a key without a value sets
// nothing.
func TestFileIsReadAsItIsWritten(t *testing.T) {
	for value, want := range map[string]string{
		"": "here", "~": "here", "null": "here", "\n  # - commented": "here", `""`: "", `"null"`: "null",
		"0123456": "0123456", "12345678901234567890123": "12345678901234567890123", "1_000": "1_000", "0x1F": "0x1F", "1e3": "1e3",
		"yes": "yes", "2026-11-29": "2026-11-29", "true": "true", ".inf": ".inf", "!!str 1": "1", "&x abc": "abc",
	} {
		o := defaults()
		if p := o.table().ReadFile("config", write(t, "the-host: "+value+"\n")); p.Err() != nil || o.host != want {
			t.Errorf("%q is %q (%v), want %q", value, o.host, p.Err(), want)
		}
	}
	for _, text := range []string{"", "# nothing\n", "---\n", "~\n"} {
		if p := defaults().table().ReadFile("config", write(t, text)); p.Err() != nil {
			t.Errorf("%q: %v", text, p)
		}
	}
}

// TestFileHasOneValueForOne: what takes one value refuses a list, even of one, and nothing is within another setting.
func TestFileHasOneValueForOne(t *testing.T) {
	for text, want := range map[string]string{
		"the-host: [a, b]\n": "the-host in FILE line 1: it has one value, not a list of them", "be-on: [true]\n": "be-on in FILE line 1: it has one value, not a list of them",
		"the-host: []\n": "the-host in FILE line 1: it has one value, not a list of them", "the-names: [a, b]\n": "", "the-names: a\n": "", "the-names: []\n": "",
		"the:\n  host: a\n": "the in FILE line 1: no such setting: none is within another, write the whole name, as in the-host: VALUE",
		"the: {}\n":         "the in FILE line 1: no such setting; did you mean the-host?", "t: 1\n": "t in FILE line 1: no such setting",
		"\ufeffthe-host: a\r\nthe-port: 81\r\n": "", "---\nthe-host: a\n": "", "the-host: a\n...\n": "",
	} {
		file, got := write(t, text), ""
		if err := defaults().table().ReadFile("config", file).Err(); err != nil {
			got = strings.ReplaceAll(err.Error(), file, "FILE")
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestFileProblemsAreNamed(t *testing.T) {
	o := defaults()
	table := append(o.table(), Text("config", new(string), "`FILE`"))
	file := write(t, "config: other.yaml\nno-such: 1\nthe-count: many\nthe-host: {a: b}\nthe-names:\n  - a\n  -\nthe-port: [[1]]\nthe-wait: 5e9\nthe-wait: 1\n")
	var got []string
	for _, err := range table.ReadFile("config", file) {
		got = append(got, strings.ReplaceAll(err.Error(), file, "FILE"))
	}
	want := []string{
		"config in FILE line 1: the file cannot name itself",
		"no-such in FILE line 2: no such setting",
		`the-count in FILE line 3: "many" is not a whole number: digits alone, without a unit, such as 7`,
		"the-host in FILE line 4: neither a value nor a list of values",
		"the-names in FILE line 5: neither a value nor a list of values",
		"the-port in FILE line 8: it has one value, not a list of them",
		`the-wait in FILE line 9: "5e9" is longer than 10 years`,
		"the-wait in FILE line 10: it is there twice",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if o.host != "here" {
		t.Errorf("a key without a value set %q", o.host)
	}
	for _, file := range []string{"/does/not/exist", write(t, "- a\n- b\n"), write(t, "a: ["), write(t, "the-host: a\n---\nthe-host: b\n"), write(t, "the-host: \xe9\n")} {
		if p := table.ReadFile("config", file); len(p) != 1 || !strings.HasPrefix(p[0].Error(), "--config: ") {
			t.Errorf("%s: %v", file, p)
		}
	}
}

func TestRereadGoesOnAfterEveryFailure(t *testing.T) {
	t.Setenv("THE_RATE", "fast")
	o := defaults()
	set := flag.NewFlagSet("x", flag.ContinueOnError)
	set.Bool("check", false, "")
	args := []string{"--check", "--the-count", "many", "stray", "--nonsense", "7", "--be-on=maybe", "--the-port", "90", "--the-wait"}
	var got []string
	for _, err := range o.table().Reread(set, args) {
		got = append(got, err.Error())
	}
	want := []string{
		`--the-rate: "fast" is not a number (from $THE_RATE)`,
		`--the-count: "many" is not a whole number: digits alone, without a unit, such as 7`,
		"--nonsense: no such setting",
		`--be-on: "maybe" is neither true nor false`,
		"--the-wait: a value must follow",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if o.port != 90 {
		t.Errorf("port %d", o.port)
	}
}

func TestWrong(t *testing.T) {
	if err := Wrong(nil, Problems{}.Err()); err != nil {
		t.Errorf("nothing is wrong: %v", err)
	}
	p := Problems{}
	p.Addf("a", "odd")
	p.Addf("b", "even")
	if err := Wrong(nil, p.Err()); err == nil || !strings.HasSuffix(err.Error(), "\n  --a: odd\n  --b: even") {
		t.Errorf("got %v", err)
	}
}
