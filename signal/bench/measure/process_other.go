//go:build !linux

package measure

import (
	"errors"
	"os/exec"
	"time"
)

func start(string, int) (*exec.Cmd, error) { return nil, errors.New("starting servers needs Linux") }

// PinProcess does nothing: only Linux has what it needs.
func PinProcess(int) error { return nil }

// CPU returns 0: only Linux tells it.
func CPU(int) time.Duration { return 0 }

func memory(int) int64 { return 0 }
