//go:build !unix

package turnsrv

// maxDescriptors is 0 since this system has no such limit.
func maxDescriptors() int { return 0 }
