package storetest

import (
	"fmt"
	"runtime"
	"testing"

	"varve.dev/objectstore"
)

// Allocations fails if a put or a read allocates memory that grows with the object: the bytes of a 16 MiB object must
// pass through the same buffers as those of a 1 MiB one. The store must not keep objects in this process.
func Allocations(t *testing.T, s objectstore.Store) {
	t.Helper()
	sizes := []int{1 << 20, 16 << 20}
	var put, get []uint64
	for _, size := range sizes {
		body := NewRope(1, size, 16<<10) // 16 KiB batches, as producers send them
		dst := make([]byte, size)
		n := 0
		key := func() string { return fmt.Sprintf("allocations/%d/%d", size, n) }
		put = append(put, allocated(t, func() error {
			n++
			return s.Put(t.Context(), key(), body)
		}))
		get = append(get, allocated(t, func() error { return s.ReadAt(t.Context(), key(), dst, 0) }))
		for ; n > 0; n-- {
			if err := s.Delete(t.Context(), []string{key()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("bytes allocated for 1 MiB and 16 MiB: put %d, get %d", put, get)
	// Pools, goroutines and stacks make the figures swing by some ten KiB; a copy of the body would be 15 MiB.
	const slack = 256 << 10
	for what, got := range map[string][]uint64{"put": put, "get": get} {
		if got[1] > got[0]+slack {
			t.Errorf("%s: %d bytes allocated for 1 MiB, %d for 16 MiB: they grow with the size", what, got[0], got[1])
		}
	}
}

// allocated is the least of several runs: other goroutines only add.
func allocated(t *testing.T, call func() error) uint64 {
	t.Helper()
	least := ^uint64(0)
	for range 4 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := call()
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatal(err)
		}
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}
