package service

import (
	"os"
	"path/filepath"
	"strings"
)

// NodeArguments returns the command line of the node that is the first process of this container, or nil where that is
// another program.
func NodeArguments() []string { return nodeArguments("/proc/1/cmdline") }

func nodeArguments(file string) []string {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	if len(args) < 2 || filepath.Base(args[0]) != "signal" || args[1] != "serve" {
		return nil
	}
	return args
}
