package state

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/signal/setting"
)

// RotateCommand is `signal rotate-secret`, which replaces a secret that the nodes agreed on through Redis.
func RotateCommand(stdout io.Writer) *cli.Command {
	cfg := DefaultRedisConfig()
	names := map[string]string{"turn": TURNSecret, "session": SessionSecret}
	return &cli.Command{
		Name:      "rotate-secret",
		Usage:     "Make a new secret for all nodes; the one before stays valid",
		ArgsUsage: "turn|session",
		Description: "For secrets that the nodes generated and agreed on through Redis. Where --turn-secret or\n" +
			"--session-secret is set, prepend the new one there instead.",
		Flags: cfg.Settings().Flags(),
		Action: func(c *cli.Context) error {
			name, ok := names[c.Args().First()]
			if !ok || c.NArg() != 1 {
				return errors.New("rotate-secret: name one secret, turn or session")
			}
			if err := cfg.Validate(); err != nil {
				return setting.Wrong(err)
			}
			if err := RotateSecret(c.Context, cfg, name); err != nil {
				return err
			}
			_, err := fmt.Fprintf(stdout, "new --%s: nodes accept it within %v and use it after %v\n", name, cfg.Beat, 2*cfg.Beat)
			return err
		},
	}
}
