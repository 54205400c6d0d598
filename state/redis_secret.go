package state

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// spreadSecrets tells OnSecret of the cluster's secrets that are not what it was told last. Those
// that this node did not propose are none of its business.
func (r *Redis) spreadSecrets(l lease) {
	if r.cfg.OnSecret == nil {
		return
	}
	for name := range r.cfg.Secrets {
		values := validSecrets(l.secrets[name], l.now/1000)
		r.mu.Lock()
		r.secrets[name] = l.secrets[name] // So that it survives the loss of Redis' data.
		news := len(values) > 0 && !slices.Equal(r.told[name], values)
		r.told[name] = values
		r.mu.Unlock()
		if news {
			r.log.Info("cluster secret is set", "node", r.id, "name", name, "valid", len(values))
			r.cfg.OnSecret(name, values)
		}
	}
}

// awaitSecrets waits a moment for another node when this one has set the secrets of a Redis that it did not find at once: that may have come
// back empty, and who knows the cluster's secrets be as late. Whoever came meanwhile with what they signed would lose its session.
func (r *Redis) awaitSecrets() {
	ctx, cancel := context.WithTimeout(r.ctx, r.patience)
	defer cancel()
	for r.hasSetSecrets() && len(r.Nodes()) == 0 {
		wake(r.poke)
		select {
		case <-time.After(usualStart):
		case <-ctx.Done():
			return
		}
	}
}

// hasSetSecrets reports whether the cluster has a secret that this node has proposed.
func (r *Redis) hasSetSecrets() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, own := range r.cfg.Secrets {
		if slices.Contains(r.told[name], own) {
			return true
		}
	}
	return false
}

// validSecrets reads a value of rotate.lua at a time, in ms of Redis' clock: the one to mint with
// comes first.
func validSecrets(value string, now int64) []string {
	if value == "" {
		return nil
	}
	values := strings.Split(value, ",")
	newest, from, waits := strings.Cut(values[0], "@")
	values[0] = newest
	if start, err := strconv.ParseInt(from, 10, 64); waits && err == nil && now < start && len(values) > 1 {
		slices.Reverse(values[:2])
	}
	return values
}

// RotateSecret makes a new cluster secret of that name. All running nodes accept it within a beat and
// mint with it after two; the one before stays valid, older ones do not.
func RotateSecret(ctx context.Context, cfg RedisConfig, name string) error {
	if !cfg.Enabled() {
		return errors.New("--redis-host, --redis-url: without Redis there is no cluster secret")
	}
	options, err := cfg.options()
	if err != nil {
		return err
	}
	silence()
	client := redis.NewUniversalClient(options)
	keys := directoryKeys(cfg.Prefix)[3:]
	err = rotateScript.Run(ctx, client, keys, name, rand.Text(), 2*cfg.Beat.Milliseconds()).Err()
	if err != nil {
		err = fmt.Errorf("rotating the secret: %w", err)
	}
	return errors.Join(err, client.Close())
}
