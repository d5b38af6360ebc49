package main

import (
	"math/bits"
	"time"
)

// subBits makes 128 buckets of each power of two: a value is known to 0.8 %.
const subBits = 7

// histogram counts durations in logarithmic buckets with linear ones inside, as HdrHistogram does. It is not safe for
// concurrent use: each goroutine has its own, and they are merged.
type histogram struct {
	counts [64 << subBits]int64
	n      int64
	max    time.Duration
}

// bucket of a duration in nanoseconds.
func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	shift := max(bits.Len64(v)-subBits-1, 0)
	return shift<<subBits + int(v>>shift)
}

// upper is the largest duration of a bucket.
func upper(i int) time.Duration {
	shift := max(i>>subBits-1, 0)
	sub := uint64(i - shift<<subBits)
	return time.Duration((sub+1)<<shift - 1)
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(d)]++
	h.n++
	h.max = max(h.max, d)
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.n += o.n
	h.max = max(h.max, o.max)
}

// quantile is the duration that a share q of all do not exceed.
func (h *histogram) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	want := int64(q*float64(h.n) + 0.5)
	for i, n := range h.counts {
		if want -= n; want <= 0 && n > 0 {
			return min(upper(i), h.max)
		}
	}
	return h.max
}
