package certificate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// hookTimeout bounds a call of the hook, which returns when the record can be asked for.
const hookTimeout = 5 * time.Minute

// hookOutput is how much of what a hook says is told when it fails.
const hookOutput = 1000

// hook is a program that sets and removes TXT records: it is called as `PROGRAM present NAME VALUE` and
// `PROGRAM cleanup NAME VALUE`. It solves challenges of DNS-01.
type hook string

// Present implements acmez.Solver.
func (h hook) Present(ctx context.Context, c acme.Challenge) error { return h.call(ctx, "present", c) }

// CleanUp implements acmez.Solver.
func (h hook) CleanUp(ctx context.Context, c acme.Challenge) error {
	return h.call(context.WithoutCancel(ctx), "cleanup", c) // Also what was given up leaves no record behind.
}

func (h hook) call(ctx context.Context, verb string, c acme.Challenge) error {
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, string(h), verb, c.DNS01TXTRecordName(), c.DNS01KeyAuthorization())
	cmd.WaitDelay = time.Second // A child of its own may keep the output open.
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		said := bytes.TrimSpace(out)
		return fmt.Errorf("--acme-dns-hook %s %s: %w: %s", string(h), verb, err, said[:min(len(said), hookOutput)])
	}
	return nil
}
