//go:build race

package cache_test

// raceDetector: sync.Pool then drops at random, so allocations are not counted.
const raceDetector = true
