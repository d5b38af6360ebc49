// Package sim runs whole agents in virtual time against a world that fails: a disk that loses and tears what was not
// synced, a metadata store whose replies are lost or whose statements come late, an object store that is away, slow,
// throttled or cuts bodies, connections that break. Real clients work on them; what they were told is held against what
// can be read once everything is healed.
//
// A schedule is 120 virtual seconds and follows from a seed: which faults there are, when, and how often. Everything is
// in the tests: go test ./localstack/sim runs a few schedules, VARVE_SIM=200 that many, VARVE_SIM_SEED=17 one again. The
// faults of a seed are always the same; the scheduling of goroutines is Go's, so that a failure that needs one exact
// interleaving may take several runs of its seed to come back.
package sim
