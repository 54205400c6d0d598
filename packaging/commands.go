// Package packaging has the commands by which packages get what belongs beside the executable. The other
// files of its directory make images and packages.
package packaging

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/signal/setting"
)

//go:embed completion
var completions embed.FS

// licenses are the texts of all modules that are linked, which a test keeps complete.
//
//go:embed licenses.txt
var licenses string

// LicensesCommand is `signal licenses`.
func LicensesCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name:   "licenses",
		Usage:  "Print the licenses of everything that the program contains",
		Action: func(*cli.Context) error { return printText(stdout, licenses) },
	}
}

// CompletionCommand is `signal completion`, which prints what makes a shell complete commands and flags.
func CompletionCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name:        "completion",
		Usage:       "Print the completion script of a shell",
		ArgsUsage:   "bash|zsh|fish",
		Description: "For one session of bash: source <(signal completion bash)",
		Action: func(c *cli.Context) error {
			shell := c.Args().First()
			if shell == "fish" {
				script, err := c.Lineage()[1].App.ToFishCompletion()
				return errors.Join(err, printText(stdout, script))
			}
			script, err := completions.ReadFile("completion/signal." + shell)
			if err != nil {
				return fmt.Errorf("completion: %q is none of bash, zsh, fish", shell)
			}
			return printText(stdout, string(script))
		},
	}
}

// ManCommand is `signal man`, which prints the manual page, which the packages install.
func ManCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name:  "man",
		Usage: "Print the manual page signal(1)",
		Action: func(c *cli.Context) error {
			app := c.Lineage()[1].App
			page, err := app.ToManWithSection(1)
			return errors.Join(err, printText(stdout, page+environment(app)+manualEnd))
		},
	}
}

// manualEnd has what no table of settings says.
//
//go:embed manual.roff
var manualEnd string

// environment is the section of the manual with the variables of serve.
func environment(app *cli.App) string {
	var text strings.Builder
	text.WriteString("\n.SH ENVIRONMENT\nA flag wins over its variable, the variable over the file of \\fBSIGNAL_CONFIG\\fP.\n")
	for _, f := range app.Command("serve").Flags {
		doc, ok := f.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		for _, name := range doc.GetEnvVars() {
			fmt.Fprintf(&text, ".TP\n\\fB%s\\fP\nas \\fB\\-\\-%s\\fP\n", name, strings.ReplaceAll(f.Names()[0], "-", "\\-"))
		}
	}
	return text.String()
}

func printText(w io.Writer, text string) error {
	_, err := io.WriteString(w, text)
	return err
}

// NoCommand is what the program does without a command that it knows: it prints the version if it was asked for, the help if
// nothing was, and else says which command was meant.
func NoCommand(stdout io.Writer) cli.ActionFunc {
	return func(c *cli.Context) error {
		given := c.Args().First()
		switch {
		case c.Bool("version"):
			return printText(stdout, "signal "+Version()+"\n")
		case given == "":
			return cli.ShowAppHelp(c)
		}
		var names []string
		for _, command := range c.App.VisibleCommands() {
			names = append(names, command.Name)
		}
		return fmt.Errorf("%q: no such command%s; signal --help lists them", given, setting.DidYouMean("signal ", given, names))
	}
}

// VersionCommand is `signal version`.
func VersionCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "Print the version",
		Action: func(*cli.Context) error {
			_, err := fmt.Fprintf(stdout, "signal %s\n", Version())
			return err
		},
	}
}

// Version is the module's version, or the commit when it was built from a checkout.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	of := map[string]string{}
	for _, s := range info.Settings {
		of[s.Key] = s.Value
	}
	version := info.Main.Version
	if rev := of["vcs.revision"]; version == "(devel)" && len(rev) >= 12 {
		version = rev[:12]
		if of["vcs.modified"] == "true" {
			version += "+dirty"
		}
	}
	return fmt.Sprintf("%s (%s %s/%s)", version, info.GoVersion, of["GOOS"], of["GOARCH"])
}
