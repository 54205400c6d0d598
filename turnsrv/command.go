package turnsrv

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/signal/setting"
	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/consent"
)

// CredentialsCommand is `signal credentials`, which mints credentials that the TURN server of the same
// secret accepts.
func CredentialsCommand(stdout io.Writer) *cli.Command {
	cfg := DefaultConfig()
	var user string
	var asJSON bool
	cfg.PeerProof = consent.Off.String() // Whoever mints by hand may have use for a relay that is none of WebRTC's.
	proof := setting.Choice("peer-proof", &cfg.PeerProof, consent.Modes(), "what their owner's peers must show before the relay sends to them, see --turn-peer-proof of the server (`MODE`: off, stun or room)").From()
	ttl := setting.Duration("ttl", &cfg.TTL, time.Second, setting.Longest, "how long they live in `SECONDS`, or as 90s or 24h").From()
	table := append(setting.Table{ttl, proof}, cfg.Settings().Pick("turn-secret", "turn-username-order", "turn-public-host", "turn-port", "turn-url", "stun-url")...)
	return &cli.Command{
		Name:  "credentials",
		Usage: "Mint and print TURN credentials",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "user", Usage: "`NAME` that the credentials are for", Required: true, Destination: &user},
			&cli.BoolFlag{Name: "json", Usage: "print an RTCConfiguration instead", Destination: &asJSON},
		}, table.Flags()...),
		Action: func(*cli.Context) error {
			if len(cfg.Secrets) == 0 {
				return errors.New("--turn-secret or TURN_SECRET: give the secret of the TURN server")
			}
			var p setting.Problems
			table.Check(&p)
			p.Add("turn-public-host", checkPublicHost(cfg.PublicHost))
			p.Check(!asJSON || !cfg.hostOfNode(), "turn-public-host", "%s is another host at every node: give the one that is meant", cfg.PublicHost)
			if len(p) > 0 {
				return setting.Wrong(p.Err())
			}
			return printCredentials(stdout, cfg, user, asJSON)
		},
	}
}

func printCredentials(w io.Writer, cfg Config, user string, asJSON bool) error {
	now := time.Now()
	if asJSON {
		servers, _ := NewIssuer(cfg, cfg.Port).ICEServers(cfg.PublicHost, user, now)
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{"iceServers": servers})
	}
	username, credential := auth.Credentials(cfg.Secrets[0], user, now.Add(cfg.TTL), auth.Order(cfg.UsernameOrder), consent.ModeOf(cfg.PeerProof))
	_, err := fmt.Fprintf(w, "username   %s\ncredential %s\n", username, credential)
	return err
}
