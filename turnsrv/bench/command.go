package bench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/signal/bench/measure"
)

// Command is `signal bench turn`. It writes results to stdout and progress to
// stderr.
func Command(stdout, stderr io.Writer) *cli.Command {
	var common measure.Options
	return &cli.Command{
		Name:  "turn",
		Usage: "Measure a TURN server, or two in turns",
		Description: "Scenarios:\n" + describe() + "\nCommands may contain {port}, {tls}, {secret}, {min} and {max}: the port of UDP, that of TLS and DTLS, the TURN-REST\n" +
			"secret and the relay ports that the server is to use, all on 127.0.0.1. {cert} and {key} are files with a certificate and its key.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "server", Usage: "`HOST:PORT` of a server that runs already", Value: "127.0.0.1:3478"},
			&cli.IntFlag{Name: "pid", Usage: "process of that server, if it is on this machine (`PID`)"},
			&cli.StringFlag{Name: "command", Usage: "start the server under test with this `COMMAND`"},
			&cli.StringFlag{Name: "against", Usage: "compare with the server that this `COMMAND` starts"},
			&cli.BoolFlag{Name: "floor", Usage: "compare with a forwarder that does nothing else"},
			&cli.DurationFlag{Name: "floor-nap", Usage: "longest nap of the forwarder (`DURATION`)", Value: 300 * time.Microsecond},
			&cli.StringFlag{Name: "secret", Usage: "TURN-REST shared `SECRET`", Value: "secret-of-the-bench"},
			&cli.StringFlag{Name: "user", Usage: "credential instead of the secret's (`NAME:PASSWORD`)"},
			&cli.StringFlag{Name: "scenario", Usage: "comma separated `LIST` of scenarios, or all", Value: "S1,S2,S3,S4,S3gg,S4gg"},
			&cli.IntFlag{Name: "clients", Usage: "`NUMBER` of clients instead of the scenario's"},
			&cli.StringFlag{Name: "transport", Usage: "`TRANSPORT` of the clients, where the scenario names none: udp, tcp, tls or dtls", Value: "udp"},
			&cli.BoolFlag{Name: "verify", Usage: "check the content and the order of every packet"},
			&cli.BoolFlag{Name: "json", Usage: "print everything as JSON"},
		}, common.Flags()...),
		Subcommands: []*cli.Command{floorCommand(), floodCommand(stdout)},
		Action:      func(c *cli.Context) error { return act(c, common, stdout, stderr) },
	}
}

func describe() string {
	var b strings.Builder
	for _, s := range scenarios {
		fmt.Fprintf(&b, "  %-5s %s\n", s.name, s.about)
	}
	return b.String()
}

func act(c *cli.Context, common measure.Options, stdout, stderr io.Writer) error {
	picked, err := pick(c.String("scenario"))
	if err != nil {
		return err
	}
	if n := c.Int("clients"); n > 0 {
		picked = withClients(picked, n)
	}
	o := Options{
		Options: common, Server: c.String("server"), PID: c.Int("pid"), Command: c.String("command"), Against: c.String("against"),
		Secret: c.String("secret"), User: c.String("user"), Scenarios: picked, Transport: c.String("transport"),
		Verify: c.Bool("verify"),
	}
	if c.Bool("floor") {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding the own executable: %w", err)
		}
		o.Floor = fmt.Sprintf("'%s' bench turn floor --listen 127.0.0.1:{port} --nap %s", self, c.Duration("floor-nap"))
	}
	wipe := func() {}
	if !c.Bool("json") {
		o.Progress, wipe = measure.Bar(stderr)
	}
	report, err := Run(c.Context, o)
	wipe()
	if report == nil {
		return err
	}
	err = errors.Join(err, measure.Show(stdout, report, c.Bool("json")))
	if err == nil && o.Verify {
		err = report.Verified()
	}
	return err
}

func floorCommand() *cli.Command {
	return &cli.Command{
		Name:  "floor",
		Usage: "Run the forwarder that --floor compares with",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Usage: "`HOST:PORT` to listen on", Value: "127.0.0.1:3479"},
			&cli.DurationFlag{Name: "nap", Usage: "longest nap (`DURATION`)", Value: 300 * time.Microsecond},
		},
		Action: func(c *cli.Context) error { return serveFloor(c.Context, c.String("listen"), c.Duration("nap")) },
	}
}

func floodCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name:  "flood",
		Usage: "Run the client that floods in the scenarios F1 and F2",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "server", Usage: "`HOST:PORT` of the server", Value: "127.0.0.1:3478"},
			&cli.StringFlag{Name: "secret", Usage: "TURN-REST shared `SECRET`", Value: "secret-of-the-bench"},
			&cli.StringFlag{Name: "user", Usage: "credential instead of the secret's (`NAME:PASSWORD`)"},
			&cli.IntFlag{Name: "train", Usage: "`NUMBER` of packets in one send, 1 for plain sends", Value: 1},
			&cli.IntFlag{Name: "core", Usage: "core to send from, negative for any (`NUMBER`)", Value: -1},
		},
		Action: func(c *cli.Context) error {
			o := Options{Server: c.String("server"), Secret: c.String("secret"), User: c.String("user")}
			o.Core = c.Int("core")
			return serveFlood(c.Context, o, c.Int("train"), func() { fmt.Fprintln(stdout, "flooding") })
		},
	}
}
