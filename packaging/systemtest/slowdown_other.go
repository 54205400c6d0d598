//go:build !linux

package systemtest

import "testing"

// Slowdown is measured on Linux alone.
func Slowdown(testing.TB) func() int { return func() int { return 1 } }
