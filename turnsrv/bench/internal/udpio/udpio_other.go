//go:build !linux || (!amd64 && !arm64)

package udpio

// Supported says whether the system has what the package offers.
const Supported = false
