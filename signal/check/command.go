package check

import (
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/signal/setting"
)

// errWrong is the end of a check that found something, which has been printed.
var errWrong = errors.New("something is wrong with what was checked")

// flags are those of the command.
type flags struct {
	Options
	authorities string
	asJSON      bool
}

// table lists them.
func (f *flags) table() setting.Table {
	return setting.Table{
		setting.Text("user", &f.User, "`NAME` of TURN; with --secret the one in what is minted").From(),
		setting.Text("password", &f.Password, "`PASSWORD` of TURN").From("TURN_PASSWORD").Otherwise("none"),
		setting.Text("secret", &f.Secret, "TURN-REST `SECRET` that mints a credential, instead of user and password").From("TURN_SECRET").Otherwise("none"),
		setting.Text("origin", &f.Origin, "`ORIGIN` of the pages that open the WebSocket").From().Otherwise("that of the URL"),
		setting.Text("token", &f.Token, "`TOKEN` that the server wants of users").From("SIGNAL_TOKEN").Otherwise("none"),
		setting.Text("cookie", &f.Cookie, "`COOKIE` header that the server wants of users").From("SIGNAL_COOKIE").Otherwise("none"),
		setting.Text("room", &f.Room, "`ROOM` to join").From().Otherwise("a fresh one"),
		setting.Text("ca", &f.authorities, "PEM `FILE` with authorities that are trusted, instead of the system's").From(),
		setting.Duration("timeout", &f.Timeout, time.Second, setting.Longest, "`SECONDS` that all checks together may take").From(),
	}
}

// Command is `signal check`.
func Command(stdout io.Writer) *cli.Command {
	f := flags{Options: Options{Timeout: 9 * time.Second}}
	table := f.table()
	return &cli.Command{
		Name:      "check",
		Usage:     "Try a deployment from outside, and say what is wrong",
		ArgsUsage: "URL|turn:HOST[:PORT]|turns:HOST[:PORT]|stun:HOST[:PORT]...",
		Description: "A URL is that of a page: names, certificate, HTTP, WebSocket, rooms, and the STUN and TURN servers that it\n" +
			"tells clients. Other STUN and TURN servers can be checked, too. ✓ is good, ✗ wrong, – could not be tried.\n" +
			"The exit status is 1 when something is wrong.",
		Flags: append(table.Flags(), &cli.BoolFlag{Name: "json", Usage: "print JSON", Destination: &f.asJSON}),
		Action: func(c *cli.Context) error {
			var p setting.Problems
			if table.Check(&p); len(p) > 0 {
				return p.Err()
			}
			switch {
			case c.NArg() == 0:
				return errors.New("say what to check, such as https://signal.example.org or turn:turn.example.org")
			case slices.ContainsFunc(c.Args().Slice(), func(arg string) bool { return strings.HasPrefix(arg, "-") }):
				return errors.New("flags come before what is to be checked")
			}
			return f.run(c, stdout)
		},
	}
}

func (f *flags) run(c *cli.Context, stdout io.Writer) error {
	if f.authorities != "" {
		var err error
		if f.Roots, err = setting.Authorities("ca", f.authorities); err != nil {
			return err
		}
	}
	f.Secret, _, _ = strings.Cut(f.Secret, ",") // A node has several, the newest first.
	results, err := Run(c.Context, f.Options, c.Args().Slice()...)
	if err != nil {
		return err
	}
	show := Print
	if f.asJSON {
		show = PrintJSON
	}
	if err := show(stdout, results); err != nil {
		return err
	}
	if failed(results) {
		return errWrong
	}
	return nil
}
