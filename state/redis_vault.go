package state

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// lockLife is how long a lock outlives its holder.
	lockLife = 20 * time.Second
	// lockPoll is how often it is looked whether a lock is free.
	lockPoll = 500 * time.Millisecond
)

// errLockLost is what the holder of a lock learns at the end when it has not had it all the time.
var errLockLost = errors.New("the lock was lost meanwhile")

// Vault keeps small values of a part of the node for all nodes, in a hash of Redis, and has locks between them. It is for
// what happens rarely. Any goroutine may use it, until the node is closed.
type Vault struct {
	redis *Redis
	key   string
}

// Vault returns the vault of a name.
func (r *Redis) Vault(name string) *Vault { return &Vault{r, r.cfg.Prefix + "vault:" + name} }

// Get returns a value, or fs.ErrNotExist.
func (v *Vault) Get(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	value, err := v.redis.client.HGet(ctx, v.key, key).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, fs.ErrNotExist
	}
	return value, err
}

// Put sets a value.
func (v *Vault) Put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return v.redis.client.HSet(ctx, v.key, key, value).Err()
}

// Delete removes values, as far as they are there.
func (v *Vault) Delete(ctx context.Context, keys ...string) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return v.redis.client.HDel(ctx, v.key, keys...).Err()
}

// Keys returns all keys, in no order.
func (v *Vault) Keys(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return v.redis.client.HKeys(ctx, v.key).Result()
}

// Lock waits until this node has the lock of a name and returns what gives it back, which must be called once. It is held for
// as long as Redis can be reached; its life bounds how long others wait for a node that has ended.
func (v *Vault) Lock(ctx context.Context, name string) (unlock func(context.Context) error, err error) {
	l := &vaultLock{redis: v.redis, key: v.key + ":lock:" + name, owner: rand.Text()}
	for {
		switch taken, err := l.take(ctx); {
		case err != nil:
			return nil, err
		case taken:
			return l.hold(), nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-v.redis.ctx.Done():
			return nil, ErrUnavailable
		case <-time.After(lockPoll):
		}
	}
}

// vaultLock is a lock in the hands of one holder.
type vaultLock struct {
	redis      *Redis
	key, owner string
}

// take takes the lock, or prolongs it.
func (l *vaultLock) take(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	taken, err := lockScript.Run(ctx, l.redis.client, []string{l.key}, l.owner, lockLife.Milliseconds()).Int()
	return taken == 1, err
}

// hold prolongs the lock until the returned function is called, which gives it back.
func (l *vaultLock) hold() (unlock func(context.Context) error) {
	ctx, cancel := context.WithCancel(l.redis.ctx)
	var holding sync.WaitGroup
	lost := false
	holding.Go(func() {
		tick := time.NewTicker(lockLife / 4)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				taken, err := l.take(ctx)
				lost = lost || err == nil && !taken
			}
		}
	})
	return func(ctx context.Context) error {
		cancel()
		holding.Wait()
		ctx, stop := context.WithTimeout(ctx, opTimeout)
		defer stop()
		freed, err := unlockScript.Run(ctx, l.redis.client, []string{l.key}, l.owner).Int()
		if err == nil && (lost || freed == 0) {
			err = errLockLost
		}
		return err
	}
}
