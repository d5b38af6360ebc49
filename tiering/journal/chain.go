package journal

import (
	"cmp"
	"slices"
)

// run is a row of whole frames in one file, each starting where the one before ended.
type run struct {
	file       int   // index, in order of life
	start, end int64 // positions
	prev       int64 // where the frame before start says that it ended
	mark       int64 // highest of its frames
	damaged    bool  // one frame whose header is whole and whose batch is not: it only testifies
}

// span is a range of positions, [from, to).
type span struct{ from, to int64 }

// verdict is what chain decides.
type verdict struct {
	keep     []run // to hand back, in order
	from     int64 // positions below are released
	end      int64 // behind the last kept frame
	torn     int64 // bytes of whole frames behind end that are cut
	rotten   bool  // end was known to be on disk: what stood there is damaged
	evidence int64 // the highest position known to have been on disk
}

// chain follows runs, sorted by life and position, from released on, leaves out what earlier recoveries cut, and decides
// whether the place where the chain breaks is a torn tail or damage.
func chain(runs []run, cuts []span, released, dbSynced int64) verdict {
	v := verdict{from: released, end: released, evidence: dbSynced}
	var open []run
	for _, r := range runs {
		if r, ok := uncut(r, cuts); ok && r.end > released {
			open = append(open, r)
		}
	}
	for len(open) > 0 {
		r := open[0]
		// What is released need not be there: neither the frames a run starts with, nor those before it.
		r.start, r.prev = max(r.start, v.from), max(r.prev, v.from)
		if r.damaged || r.prev != v.end {
			break
		}
		v.keep = append(v.keep, r)
		v.end = r.end
		open = open[1:]
	}
	for _, r := range open {
		if !r.damaged {
			v.torn += r.end - r.start
		}
		v.evidence = max(v.evidence, r.mark)
	}
	v.rotten = v.evidence > v.end
	return v
}

// uncut takes from r what earlier recoveries cut. A cut reaches to the limit of the lives it covers, so it takes a tail.
func uncut(r run, cuts []span) (run, bool) {
	for _, c := range cuts {
		if c.from < r.end && r.start < c.to {
			r.end = max(r.start, c.from)
		}
	}
	return r, r.end > r.start
}

// sortRuns puts runs in order of life, then position.
func sortRuns(runs []run) {
	slices.SortFunc(runs, func(a, b run) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.start, b.start))
	})
}
