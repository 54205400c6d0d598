//go:build !unix

package setting

// Descriptors is 0 since this system has no such limit.
func Descriptors() int { return 0 }
