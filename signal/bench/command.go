package bench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/signal/bench/measure"
)

// Command is `signal bench ws`. It writes results to stdout and progress to stderr.
func Command(stdout, stderr io.Writer) *cli.Command {
	var o Options
	flags := []cli.Flag{
		&cli.StringFlag{Name: "server", Usage: "`HOST:PORT` of a server that runs already", Value: "127.0.0.1:8080", Destination: &o.Server},
		&cli.IntFlag{Name: "pid", Usage: "process of that server, if it is on this machine (`PID`)", Destination: &o.PID},
		&cli.StringFlag{Name: "command", Usage: "start the server under test with this `COMMAND`", Destination: &o.Command},
		&cli.StringFlag{Name: "dialect", Usage: "what that server speaks: signal, peerjs or echo (`DIALECT`)", Value: "signal", Destination: &o.Dialect},
		&cli.GenericFlag{Name: "against", Usage: "compare with the server that this `COMMAND` starts; may be given several times", Value: (*texts)(&o.Against)},
		&cli.GenericFlag{Name: "against-dialect", Usage: "what that server speaks (`DIALECT`); once for each", Value: (*texts)(&o.Dialects)},
		&cli.BoolFlag{Name: "floor", Usage: "compare with an echo that does nothing else"},
		&cli.StringFlag{Name: "scenario", Usage: "comma separated `LIST` of scenarios, or all", Value: "saturated,paced,half,trickle"},
		&cli.IntFlag{Name: "clients", Usage: "`NUMBER` of clients instead of the scenario's"},
		&cli.IntFlag{Name: "rate", Usage: "`NUMBER` of messages a second instead of the scenario's"},
		&cli.IntFlag{Name: "size", Usage: "`BYTES` of an offer", Value: 1 << 10, Destination: &o.Size},
		&cli.BoolFlag{Name: "json", Usage: "print everything as JSON"},
	}
	return &cli.Command{
		Name:  "ws",
		Usage: "Measure a signaling server, or several in turns",
		Description: "Scenarios:\n" + describe() + "\nIn commands {port} is the TCP port that the server is to use, on 127.0.0.1. A server under test needs\n" +
			"limits above the load: --address-connections, --message-rate and --message-burst of signal serve.\n" +
			"The exit status is 1 when it loses, doubles, reorders or changes a message or stamps it with the wrong sender.",
		Flags:       append(flags, o.Flags()...),
		Subcommands: []*cli.Command{floorCommand()},
		Action:      func(c *cli.Context) error { return act(c, o, stdout, stderr) },
	}
}

func act(c *cli.Context, o Options, stdout, stderr io.Writer) error {
	var err error
	if o.Scenarios, err = pick(c.String("scenario")); err != nil {
		return err
	}
	resize(o.Scenarios, c.Int("clients"), c.Int("rate"))
	if c.Bool("floor") {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding the own executable: %w", err)
		}
		o.Floor = fmt.Sprintf("'%s' bench ws floor --listen 127.0.0.1:{port}", self)
	}
	wipe := func() {}
	if !c.Bool("json") {
		o.Progress, wipe = measure.Bar(stderr)
	}
	report, err := Run(c.Context, o)
	wipe()
	if report == nil || len(report.Results) == 0 {
		return err
	}
	err = errors.Join(err, measure.Show(stdout, report, c.Bool("json")))
	return errors.Join(err, report.Verified())
}

// texts is a flag value that is added to each time; a command may contain commas.
type texts []string

func (t *texts) Set(text string) error {
	*t = append(*t, text)
	return nil
}

func (t *texts) String() string { return strings.Join(*t, " ") }

func floorCommand() *cli.Command {
	return &cli.Command{
		Name:  "floor",
		Usage: "Run the echo that --floor compares with",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Usage: "`HOST:PORT` to listen on", Value: "127.0.0.1:8081"},
		},
		Action: func(c *cli.Context) error { return serveFloor(c.Context, c.String("listen")) },
	}
}
