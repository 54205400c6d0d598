//go:build !linux || (!amd64 && !arm64)

package bench

import (
	"context"
	"errors"
	"os/exec"
	"time"
)

var errSystem = errors.New("this needs Linux on amd64 or arm64")

func traffic(context.Context, scenario, *target, Options) (result, error) { return result{}, errSystem }

func start(string, int) (*exec.Cmd, error) { return nil, errSystem }

func pinProcess(int) error { return nil }

func cpuOf(int) time.Duration { return 0 }

func memoryOf(int) int64 { return 0 }

func serveFloor(context.Context, string, time.Duration) error { return errSystem }

func serveFlood(context.Context, Options, int, func()) error { return errSystem }
