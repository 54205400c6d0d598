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

// hookFarewell bounds the call that removes a record of a node that stops.
const hookFarewell = 5 * time.Second

// hookOutput is how much of what a hook says is kept, and told when it fails.
const hookOutput = 1000

// hook is a program that sets and removes TXT records: it is called as `PROGRAM present NAME VALUE` and
// `PROGRAM cleanup NAME VALUE`. It solves challenges of DNS-01.
type hook string

// Present implements acmez.Solver.
func (h hook) Present(ctx context.Context, c acme.Challenge) error { return h.call(ctx, "present", c) }

// nodeKey leads to the context that ends with the node. certmagic calls CleanUp with one that has no end, but its values.
type nodeKey struct{}

func ofNode(ctx context.Context) context.Context { return context.WithValue(ctx, nodeKey{}, ctx) }

// CleanUp implements acmez.Solver. Also what was given up leaves no record behind, but a node that stops does not wait for long.
func (h hook) CleanUp(ctx context.Context, c acme.Challenge) error {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if node, ok := ctx.Value(nodeKey{}).(context.Context); ok {
		defer context.AfterFunc(node, func() { time.AfterFunc(hookFarewell, cancel) })()
	}
	return h.call(own, "cleanup", c)
}

func (h hook) call(ctx context.Context, verb string, c acme.Challenge) error {
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, string(h), verb, c.DNS01TXTRecordName(), c.DNS01KeyAuthorization())
	cmd.WaitDelay = time.Second // A child of its own may keep the output open.
	var said beginning
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		return fmt.Errorf("--acme-dns-hook %s %s: %w: %s", string(h), verb, err, bytes.TrimSpace(said))
	}
	return nil
}

// beginning keeps what is written first, up to hookOutput.
type beginning []byte

// Write implements io.Writer.
func (b *beginning) Write(p []byte) (int, error) {
	*b = append(*b, p[:min(len(p), hookOutput-len(*b))]...)
	return len(p), nil
}
