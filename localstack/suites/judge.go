package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// failure is a test that is not as its list says.
type failure struct{ test, problem string }

func (f failure) String() string { return f.test + " " + f.problem }

// finding is what a run says about a list.
type finding struct {
	passed   []result
	skipped  int // listed with a reason
	left     int // slow ones, in the short form
	unlisted []result
	failures []failure
}

// selection says how much of a suite was run.
type selection struct {
	full bool
	only bool // some tests by name: what did not run says nothing
}

// judge compares a run with the list. What passes must be listed as such, or is reported; what fails, skips itself without
// a reason in the list, or did not run although it is listed, is a failure.
func judge(s suite, l list, results results, sel selection) finding {
	f := finding{skipped: len(l.names(skip))}
	fail := func(test, format string, args ...any) {
		f.failures = append(f.failures, failure{test, fmt.Sprintf(format, args...)})
	}
	for _, test := range l.names(pass, slow) {
		if l.verdicts[test] == slow && !sel.full {
			f.left++
			continue
		}
		r, ran := results.byTest[test]
		switch {
		case !ran && sel.only:
		case !ran:
			fail(test, "is listed and was not there, or did not end")
		case r.action != "pass":
			fail(test, "is listed as passing: got %s", r.action)
		default:
			f.passed = append(f.passed, r)
		}
	}
	for test, r := range results.byTest {
		if l.verdicts[test] != "" {
			continue
		}
		deep := strings.Count(test, "/") >= s.depth // only the tests above are listed
		switch {
		case r.action == "skip":
			fail(test, "skips itself, and no reason is listed")
		case r.action == "pass" && !deep:
			f.unlisted = append(f.unlisted, r)
		case r.action == "fail" && !deep:
			fail(test, "fails, and is not listed")
		}
	}
	for _, test := range l.names(skip) {
		top, _, _ := strings.Cut(test, "/")
		if results.known != nil && !slices.Contains(results.known, top) {
			fail(test, "is listed, but the suite has no such test")
		}
	}
	slices.SortFunc(f.unlisted, func(a, b result) int { return strings.Compare(a.test, b.test) })
	slices.SortFunc(f.failures, func(a, b failure) int { return strings.Compare(a.test, b.test) })
	return f
}

func (f finding) print(w io.Writer, s suite, build, tests time.Duration) {
	fmt.Fprintf(w, "%-10s %s: %d pass, %d do not apply, %d fail; %d slow ones left for -full; %.0f s to build, %.0f s to run\n",
		s.name, s.module.path+"@"+s.module.version, len(f.passed)+len(f.unlisted), f.skipped, len(f.failures), f.left, build.Seconds(), tests.Seconds())
	for _, r := range f.unlisted {
		fmt.Fprintf(w, "  passes and is not listed (add it with -update): %s, %.1f s\n", r.test, r.seconds)
	}
}
