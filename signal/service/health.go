package service

import (
	"github.com/urfave/cli/v2"

	"cline-meet/signal/signal/client"
)

// HealthCommand is the health check of containers that hold nothing but this executable.
func HealthCommand() *cli.Command {
	s := NewSettings()
	path := client.PathReady
	return &cli.Command{
		Name:  "health",
		Usage: "Ask the node on this machine whether it takes new users",
		Description: "Give it the settings of the node; in a container it takes those of the node there. The exit status is 0\n" +
			"when /ready says yes, else 1.",
		Flags: append(s.Table.Flags(), &cli.BoolFlag{Name: "alive", Usage: "ask whether it lives instead: /health, for what restarts it",
			Action: func(*cli.Context, bool) error { path = client.PathHealth; return nil }}),
		Action: func(c *cli.Context) error {
			if args := NodeArguments(); args != nil {
				s.Reread(args) // The node has said what is wrong with them.
			} else if err := s.Complete(c); err != nil {
				return err
			}
			return client.Ask(c.Context, s.Signal.LocalURL(), path, s.Edge.Dial)
		},
	}
}
