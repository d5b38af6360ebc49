//go:build race

package broker

// raceFactor: under the race detector append(s, make(…)…) allocates twice.
const raceFactor = 2
