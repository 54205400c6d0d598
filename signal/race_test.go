//go:build race

package signal

// raceDetector says that pools drop what they hold at random, so that allocations cannot be counted.
const raceDetector = true
