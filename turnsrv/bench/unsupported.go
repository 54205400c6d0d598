//go:build !linux || (!amd64 && !arm64)

package bench

import (
	"context"
	"errors"
	"time"
)

var errSystem = errors.New("this needs Linux on amd64 or arm64")

func traffic(context.Context, scenario, *target, Options) (result, error) { return result{}, errSystem }

func serveFloor(context.Context, string, time.Duration) error { return errSystem }

func serveFlood(context.Context, Options, int, func()) error { return errSystem }
