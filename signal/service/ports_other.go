//go:build !linux

package service

// AllowLowPorts does nothing where there are no capabilities.
func AllowLowPorts() {}
