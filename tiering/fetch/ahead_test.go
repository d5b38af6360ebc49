package fetch

import "testing"

func TestReadAheadBeyondTheSteadyOneIsForWhoWaits(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		bound, size int64
		waited      bool
		want        int64
	}{
		{128 * mib, 0, false, 0},
		{128 * mib, mib, false, 4 * mib},
		{128 * mib, 16 * mib, true, 32 * mib},
		{128 * mib, 32 * mib, false, 32 * mib},
		{128 * mib, 32 * mib, true, 64 * mib},
		{128 * mib, 128 * mib, true, 128 * mib},
		{128 * mib, 64 * mib, false, 64 * mib},
		{8 * mib, 4 * mib, true, 8 * mib},
		{0, mib, true, 0},
	} {
		g := reading{Reader: &Reader{cfg: Config{ReadAhead: c.bound}}, waited: c.waited}
		if got := g.grown(c.size); got != c.want {
			t.Errorf("after %d of at most %d, waited %v: %d, want %d", c.size, c.bound, c.waited, got, c.want)
		}
	}
}
