// Package testproc runs tests of other packages in a process, or in a network, of
// their own.
package testproc
