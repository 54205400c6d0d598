package setting

import (
	"flag"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options has a setting of every kind.
type options struct {
	host   string
	policy string
	names  []string
	on     bool
	count  int
	port   int
	rate   float64
	wait   time.Duration
}

func defaults() *options {
	return &options{host: "here", policy: "local", names: []string{"a", "b"}, count: 7, port: 80, rate: 0.5, wait: time.Minute}
}

func (o *options) table() Table {
	return Category("Things",
		Text("the-host", &o.host, "`HOST` of it"),
		Choice("the-policy", &o.policy, []string{"local", "reject"}, "`POLICY`"),
		List("the-names", &o.names, "`NAMES`"),
		Bool("be-on", &o.on, "whether it is on"),
		Int("the-count", &o.count, 1, 100, "`NUMBER`"),
		Port("the-port", &o.port, 1, "`PORT`"),
		Rate("the-rate", &o.rate, 0, 10, "`NUMBER` a second"),
		Duration("the-wait", &o.wait, time.Second, time.Hour, "`SECONDS`"),
	)
}

// run reads args and the environment as the program does.
func run(t *testing.T, o *options, args ...string) error {
	t.Helper()
	app := &cli.App{Flags: o.table().Flags(), Writer: io.Discard, ErrWriter: io.Discard, Action: func(*cli.Context) error { return nil }}
	return app.Run(append([]string{"x"}, args...))
}

func TestFlagsAndVariablesFillEveryKind(t *testing.T) {
	for name, value := range map[string]string{"THE_HOST": "", "THE_POLICY": "", "THE_NAMES": " c, ,d", "THE_COUNT": "0x10",
		"THE_PORT": "", "THE_RATE": "2.5", "THE_WAIT": "90"} {
		t.Setenv(name, value)
	}
	o := defaults()
	if err := run(t, o, "--be-on", "--the-wait", "1m30s", "--the-names", "e"); err != nil {
		t.Fatal(err)
	}
	want := options{policy: "local", names: []string{"e"}, on: true, count: 16, port: 80, rate: 2.5, wait: 90 * time.Second}
	if !slices.Equal(o.names, want.names) {
		t.Errorf("names %q", o.names)
	}
	if o.names = nil; o.host != want.host || o.policy != want.policy || o.on != want.on || o.count != want.count ||
		o.port != want.port || o.rate != want.rate || o.wait != want.wait {
		t.Errorf("got %+v, want %+v", *o, want)
	}
}

func TestSettingSaysWhatWasGiven(t *testing.T) {
	t.Setenv("THE_COUNT", "3")
	t.Setenv("THE_PORT", "")
	o := defaults()
	set := flag.NewFlagSet("x", flag.ContinueOnError)
	given := map[string]bool{}
	for _, s := range o.table() {
		if err := s.Apply(set); err != nil {
			t.Fatal(err)
		}
		given[s.Name] = s.IsSet()
	}
	if !given["the-count"] || given["the-port"] || given["the-wait"] {
		t.Errorf("given: %v", given)
	}
}

func TestHelpShowsDefaultAndVariable(t *testing.T) {
	o := defaults()
	var lines []string
	for _, s := range o.table() {
		lines = append(lines, strings.ReplaceAll(s.String(), "\t", " | "))
		if s.GetCategory() != "Things" {
			t.Errorf("--%s is listed under %q", s.Name, s.GetCategory())
		}
	}
	lines = append(lines, List("secret", new([]string), "`SECRETS`").Otherwise("generated").From("OTHER").String(),
		Duration("ttl", new(time.Duration), 0, Longest, "`SECONDS`").From().String())
	want := []string{
		`--the-host HOST | HOST of it (default: "here") [$THE_HOST]`,
		`--the-policy POLICY | POLICY (default: "local") [$THE_POLICY]`,
		`--the-names NAMES | NAMES (default: a,b) [$THE_NAMES]`,
		`--be-on | whether it is on (default: false) [$BE_ON]`,
		`--the-count NUMBER | NUMBER (default: 7) [$THE_COUNT]`,
		`--the-port PORT | PORT (default: 80) [$THE_PORT]`,
		`--the-rate NUMBER | NUMBER a second (default: 0.5) [$THE_RATE]`,
		`--the-wait SECONDS | SECONDS (default: 60) [$THE_WAIT]`,
		"--secret SECRETS\tSECRETS (default: generated) [$OTHER]",
		"--ttl SECONDS\tSECONDS (default: 0)",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"60": time.Minute, "1.5": 1500 * time.Millisecond, "90s": 90 * time.Second, " 1h ": time.Hour, "1m30s": 90 * time.Second,
		"0": 0, "0.0003": 300 * time.Microsecond, "3e-05": 30 * time.Microsecond, "300us": 300 * time.Microsecond,
		"315360000": Longest, "87600h": Longest,
	} {
		if d, err := ParseDuration(text); err != nil || d != want {
			t.Errorf("%q: got %v, %v; want %v", text, d, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "is not a time", "soon": "is not a time", "NaN": "is not a time", "5 s": "is not a time", "1,5": "is not a time",
		"5e9": "longer than 10 years", "1e10": "longer than 10 years", "1e300": "longer than 10 years", "1e999": "longer than 10 years",
		"inf": "longer than 10 years", "+Infinity": "longer than 10 years", "315360001": "longer than 10 years", "87601h": "longer than 10 years",
		"-1": "negative", "-1s": "negative", "-inf": "negative", "-1e999": "negative", "-0.001": "negative",
	} {
		d, err := ParseDuration(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v; want it %s", text, d, err, want)
		}
	}
}

// TestEveryKindRefusesInWords gives what cannot be read by flag and by variable.
func TestEveryKindRefusesInWords(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"be-on", "maybe", `"maybe" is neither true nor false`},
		{"the-count", "many", `"many" is not a whole number: digits alone, without a unit, such as 7`},
		{"the-count", "1.5", `"1.5" is not a whole number: digits alone, without a unit, such as 7`},
		{"the-count", "99999999999999999999", `"99999999999999999999" is too large a number`},
		{"the-count", "-99999999999999999999", `"-99999999999999999999" is too large a number`},
		{"the-port", "http", `"http" is not a whole number: digits alone, without a unit, such as 80`},
		{"the-rate", "fast", `"fast" is not a number`},
		{"the-rate", "NaN", `"NaN" is not a number`},
		{"the-rate", "inf", `"inf" is not a number`},
		{"the-rate", "1e400", `"1e400" is too large a number`},
		{"the-wait", "NaN", `"NaN" is not a time: seconds or with a unit, such as 90, 1.5 or 1m30s`},
	} {
		o := defaults()
		err := run(t, o, "--"+tt.name+"="+tt.text)
		if err == nil || !strings.Contains(err.Error(), "-"+tt.name) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("--%s %s: %v", tt.name, tt.text, err)
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(variable(tt.name), tt.text)
			err := run(t, defaults())
			if err == nil || err.Error() != "--"+tt.name+": "+tt.want+" (from $"+variable(tt.name)+")" {
				t.Errorf("%v", err)
			}
		})
		var p Problems
		if o.table().Check(&p); p.Err() != nil {
			t.Errorf("--%s %s left a value behind: %v", tt.name, tt.text, p)
		}
	}
}

func TestBounds(t *testing.T) {
	var p Problems
	defaults().table().Check(&p)
	if p.Err() != nil {
		t.Fatalf("the defaults: %v", p)
	}
	for want, change := range map[string]func(*options){
		`--the-policy: "loud" is none of local, reject`: func(o *options) { o.policy = "loud" },
		"--the-count: 0 is less than 1":                 func(o *options) { o.count = 0 },
		"--the-count: 101 is more than 100":             func(o *options) { o.count = 101 },
		"--the-port: 0 is not a port (1-65535)":         func(o *options) { o.port = 0 },
		"--the-port: 65536 is not a port (1-65535)":     func(o *options) { o.port = 65536 },
		"--the-rate: -1 is less than 0":                 func(o *options) { o.rate = -1 },
		"--the-rate: 11 is more than 10":                func(o *options) { o.rate = 11 },
		"--the-rate: NaN is less than 0":                func(o *options) { o.rate = math.NaN() },
		"--the-wait: 10ms is less than 1s":              func(o *options) { o.wait = 10 * time.Millisecond },
		"--the-wait: 2h0m0s is more than 1h0m0s":        func(o *options) { o.wait = 2 * time.Hour },
	} {
		o, p := defaults(), Problems{}
		change(o)
		if o.table().Check(&p); p.Err() == nil || p.Err().Error() != want {
			t.Errorf("got %v, want %s", p.Err(), want)
		}
	}
}

func TestProblemsAreJoined(t *testing.T) {
	var p Problems
	p.Add("a", nil)
	p.Check(true, "b", "fine")
	if p.Err() != nil {
		t.Errorf("no problem is %v", p.Err())
	}
	p.Addf("c", "%d is odd", 3)
	p.Check(false, "d", "gone")
	if got := p.Err().Error(); got != "--c: 3 is odd\n--d: gone" {
		t.Errorf("got %q", got)
	}
}

func TestPick(t *testing.T) {
	picked := defaults().table().Pick("the-wait", "be-on")
	if len(picked) != 2 || picked[0].Name != "the-wait" || picked[1].Name != "be-on" {
		t.Errorf("picked %v", picked)
	}
}

func TestParsePrefix(t *testing.T) {
	for text, want := range map[string]string{"10.0.0.0/8": "10.0.0.0/8", "10.1.2.3/8": "10.1.2.3/8", "10.0.0.1": "10.0.0.1/32", "::1": "::1/128"} {
		if p, err := ParsePrefix(text); err != nil || p.String() != want {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
	for _, text := range []string{"", "somewhere", "10.0.0.0/33", "fe80::1%eth0", "10.0.0"} {
		if p, err := ParsePrefix(text); err == nil {
			t.Errorf("%q: %v", text, p)
		}
	}
}

// FuzzNumbers holds that whatever is accepted is within the bounds, and means the same when it is
// written again as the help writes it.
func FuzzNumbers(f *testing.F) {
	for _, seed := range []string{"60", "1.5", "1m30s", "5e9", "1e10", "NaN", "inf", "-1", "0x1p-2", "1_000", "9223372036854775807", "9223372037", "1e-30", "87600h", "010", "true"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var d, again duration
		if d.Set(text) == nil {
			if d < 0 || time.Duration(d) > Longest {
				t.Errorf("%q is %v", text, time.Duration(d))
			}
			if err := again.Set(d.String()); err != nil || (time.Duration(again)-time.Duration(d)).Abs() > time.Microsecond {
				t.Errorf("%q is %v, then %v (%v)", text, time.Duration(d), time.Duration(again), err)
			}
		}
		var n, m whole
		if n.Set(text) == nil && (m.Set(n.String()) != nil || n != m) {
			t.Errorf("%q is %d, then %d", text, n, m)
		}
		var r, q number
		if r.Set(text) == nil && (math.IsNaN(float64(r)) || math.IsInf(float64(r), 0) || q.Set(r.String()) != nil || r != q) {
			t.Errorf("%q is %v, then %v", text, r, q)
		}
	})
}

// TestDerived has a default that nobody can give.
func TestDerived(t *testing.T) {
	whole, number := Derived, float64(Derived)
	table := Table{Int("whole", &whole, 0, 9, "").OrDerived("others"), Rate("number", &number, 0, 9, "").OrDerived("others")}
	var p Problems
	table.Check(&p)
	if err := p.Err(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for _, s := range table {
		for _, text := range []string{"-1", " -1"} {
			if s.set(text, "a test") == nil {
				t.Errorf("--%s takes %q", s.Name, text)
			}
		}
		if err := s.set("0", "a test"); err != nil || s.check() != nil {
			t.Errorf("--%s does not take 0: %v", s.Name, err)
		}
	}
}
