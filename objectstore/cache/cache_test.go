package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"varve.dev/objectstore"
	"varve.dev/objectstore/cache"
	"varve.dev/objectstore/memory"
)

var table = crc32.MakeTable(crc32.Castagnoli)

const (
	blockBytes     = 100
	chunkBytes     = 1000
	directoryBytes = 37
)

// object is one stored object: blocks of about blockBytes, then a directory.
type object struct {
	cache.Object
	data []byte
}

func newObject(rng *rand.Rand, key string, size int) object {
	data := make([]byte, size+directoryBytes)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	o := object{cache.Object{Key: key, Length: int64(len(data))}, data}
	for at := 0; at < size; {
		end := min(size, at+1+rng.IntN(2*blockBytes))
		o.Blocks.Ends = append(o.Blocks.Ends, int64(end))
		o.Blocks.Sums = append(o.Blocks.Sums, crc32.Checksum(data[at:end], table))
		at = end
	}
	return o
}

// image is a cache.Image in odd pieces that fails when it is used after its end.
type image struct {
	objectstore.Bytes
	t    testing.TB
	data []byte
	step int64
	refs atomic.Int64
}

func newImage(t testing.TB, o object) *image {
	data := bytes.Clone(o.data)
	im := &image{Bytes: objectstore.NewBytes(data), t: t, data: data, step: 64}
	im.refs.Store(1)
	return im
}

func (im *image) alive(what string) {
	if im.refs.Load() <= 0 {
		im.t.Errorf("%s of an image that has been released", what)
	}
}

func (im *image) Open() io.ReadSeeker {
	im.alive("Open")
	return im.Bytes.Open()
}

func (im *image) Slices(dst [][]byte, off, n int64) [][]byte {
	im.alive("Slices")
	for n > 0 {
		k := min(n, im.step-off%im.step)
		dst = append(dst, im.data[off:off+k:off+k])
		off, n = off+k, n-k
	}
	return dst
}

func (im *image) Retain() {
	im.alive("Retain")
	im.refs.Add(1)
}

func (im *image) Release() {
	switch n := im.refs.Add(-1); {
	case n == 0:
		for i := range im.data {
			im.data[i] = 0xdb // back to its pool
		}
	case n < 0:
		im.t.Error("an image is released more often than it was retained")
	}
}

// store counts GETs, and does to them what the test wants.
type store struct {
	objectstore.Store
	gets, now, peak atomic.Int64
	mu              sync.Mutex
	after           func(ctx context.Context, key string, dst []byte, off int64) error
}

func (s *store) ReadAt(ctx context.Context, key string, dst []byte, off int64) error {
	s.gets.Add(1)
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for p := s.peak.Load(); n > p && !s.peak.CompareAndSwap(p, n); p = s.peak.Load() {
	}
	if err := s.Store.ReadAt(ctx, key, dst, off); err != nil {
		return err
	}
	s.mu.Lock()
	after := s.after
	s.mu.Unlock()
	if after != nil {
		return after(ctx, key, dst, off)
	}
	return nil
}

func (s *store) then(f func(ctx context.Context, key string, dst []byte, off int64) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after = f
}

// world is a cache over a counting store with some objects.
type world struct {
	*cache.Cache
	t       testing.TB
	rng     *rand.Rand
	store   *store
	objects []object
	dir     string
}

func newWorld(t testing.TB, objects int, cfg cache.Config) *world {
	t.Helper()
	w := &world{t: t, rng: rand.New(rand.NewPCG(1, 2)), store: &store{Store: memory.New()}}
	for i := range objects {
		o := newObject(w.rng, fmt.Sprintf("wal/%02x/%d", i, i), 5000)
		must(t, w.store.Put(t.Context(), o.Key, objectstore.NewBytes(o.data)))
		w.objects = append(w.objects, o)
	}
	w.reopen(cfg)
	t.Cleanup(w.Close)
	return w
}

func (w *world) reopen(cfg cache.Config) {
	w.t.Helper()
	if w.Cache != nil {
		w.Close()
	}
	cfg.ChunkBytes = chunkBytes
	w.dir = cfg.Dir
	c, err := cache.New(w.store, cfg)
	must(w.t, err)
	cache.Poison(c)
	w.Cache = c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) addImage(o object) *image {
	im := newImage(w.t, o)
	w.AddImage(o.Key, im)
	return im
}

// read views a range and compares it.
func (w *world) read(o object, off, n int64) {
	w.t.Helper()
	v, err := w.View(w.t.Context(), o.Object, off, n)
	if err != nil {
		w.t.Fatalf("view %s [%d, +%d): %v", o.Key, off, n, err)
	}
	if got := slices.Concat(v.Slices...); !bytes.Equal(got, o.data[off:off+n]) {
		w.t.Fatalf("view %s [%d, +%d) brought other bytes", o.Key, off, n)
	}
	v.Release()
}

// gets runs f and fails unless it costs want GETs.
func (w *world) gets(want int64, why string, f func()) {
	w.t.Helper()
	before := w.store.gets.Load()
	f()
	if got := w.store.gets.Load() - before; got != want {
		w.t.Errorf("%s: %d GETs, want %d", why, got, want)
	}
}

func files(t testing.TB, dir string) (names []string, size int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		names = append(names, e.Name())
		size += info.Size()
	}
	return names, size
}

func TestTheNearestPlaceAnswers(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, 1, cache.Config{Dir: dir, MemoryBytes: 1 << 20, DiskBytes: 1 << 20, ColdBytes: 1 << 20})
	o := w.objects[0]
	all := func() { w.read(o, 0, o.Length); w.read(o, 950, 200); w.read(o, 4999, 2); w.read(o, 17, 0) }

	im := w.addImage(o)
	w.gets(0, "image", all)
	must(t, w.Keep(o.Key, objectstore.NewBytes(o.data), time.Now().Add(time.Hour)))
	w.Drop(o.Key)
	if im.refs.Load() != 0 {
		t.Errorf("a dropped image has %d references", im.refs.Load())
	}
	if names, _ := files(t, dir); len(names) != 0 {
		t.Errorf("files after Drop: %v", names)
	}

	must(t, w.Keep(o.Key, objectstore.NewBytes(o.data), time.Now().Add(time.Hour)))
	w.gets(0, "disk", all)
	must(t, w.Evict())
	w.gets(1, "one chunk below", func() { w.read(o, 2100, 300) })
	w.gets(0, "the same chunk", func() { w.read(o, 2200, 100) })
	w.gets(4, "the other chunks", func() { w.read(o, 0, 5000) })
	w.gets(0, "all blocks", func() { w.read(o, 0, 5000) })
	w.gets(1, "the directory", func() { w.read(o, 5000, directoryBytes) })
	s := w.Stats()
	if s.ImageHits != 3 || s.DiskHits != 3 || s.ColdHits != 2 || s.Misses != 2 || s.Gets != 6 || s.Chunks != 5 {
		t.Errorf("stats: %+v", s)
	}
	w.Drop(o.Key)
	if s := w.Stats(); s.ColdBytes != 0 || s.Chunks != 0 {
		t.Errorf("after Drop: %+v", s)
	}
}

func TestRangesAndBlocksAreChecked(t *testing.T) {
	w := newWorld(t, 1, cache.Config{})
	o := w.objects[0]
	for _, r := range [][2]int64{{-1, 5}, {0, -1}, {0, o.Length + 1}, {o.Length, 1}, {1 << 62, 1 << 62}} {
		if _, err := w.View(t.Context(), o.Object, r[0], r[1]); !errors.Is(err, objectstore.ErrRange) {
			t.Errorf("range %v: got %v, want ErrRange", r, err)
		}
	}
	huge := o.Object
	huge.Length = 1 << 50
	if _, err := w.View(t.Context(), huge, 0, 1<<49); !errors.Is(err, objectstore.ErrRange) {
		t.Errorf("an object of 2^50 bytes: got %v, want ErrRange", err)
	}
	for name, b := range map[string]objectstore.Blocks{
		"sums missing":   {Ends: []int64{10}},
		"backwards":      {Ends: []int64{10, 10}, Sums: make([]uint32, 2)},
		"beyond the end": {Ends: []int64{10, o.Length + 1}, Sums: make([]uint32, 2)},
	} {
		bad := cache.Object{Key: o.Key, Length: o.Length, Blocks: b}
		if _, err := w.View(t.Context(), bad, 0, 5); err == nil {
			t.Errorf("%s: accepted", name)
		}
		w.Prefetch(bad, 0, 5)
	}
	if _, err := w.View(t.Context(), cache.Object{Key: "none", Length: 10}, 0, 5); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("no object: got %v", err)
	}
}

func TestBadBytesOnDiskAreDroppedAndTheNextPlaceAnswers(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, path string, size int64){
		"flipped":   func(t *testing.T, path string, _ int64) { edit(t, path, 2222) },
		"cut short": func(t *testing.T, path string, size int64) { must(t, os.Truncate(path, size/3)) },
		"vanished":  func(t *testing.T, path string, _ int64) { must(t, os.Remove(path)) },
		"a folder":  func(t *testing.T, path string, _ int64) { must(t, os.Remove(path)); must(t, os.Mkdir(path, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w := newWorld(t, 1, cache.Config{Dir: dir, DiskBytes: 1 << 20, ColdBytes: 1 << 20})
			o := w.objects[0]
			must(t, w.Keep(o.Key, objectstore.NewBytes(o.data), time.Now().Add(time.Hour)))
			names, _ := files(t, dir)
			harm(t, filepath.Join(dir, names[0]), o.Length)
			if name == "flipped" {
				w.gets(0, "blocks that are whole", func() { w.read(o, 3000, 500) })
			}
			w.gets(1, "one chunk", func() { w.read(o, 2200, 50) })
			s := w.Stats()
			if s.Files != 0 || s.DiskBytes != 0 || s.BadFiles != map[bool]int64{true: 0, false: 1}[name == "vanished"] {
				t.Errorf("stats: %+v", s)
			}
			must(t, w.Evict())
		})
	}
}

func edit(t *testing.T, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	b[at] ^= 0x10
	must(t, os.WriteFile(path, b, 0o600))
}

func TestBadGetIsAskedForOnceMore(t *testing.T) {
	w := newWorld(t, 1, cache.Config{ColdBytes: 1 << 20})
	o := w.objects[0]
	bad := 1
	w.store.then(func(_ context.Context, _ string, dst []byte, _ int64) error {
		if bad--; bad >= 0 {
			dst[len(dst)/2] ^= 1
		}
		return nil
	})
	w.gets(2, "bad once", func() { w.read(o, 100, 100) })
	w.Drop(o.Key)
	bad = 1 << 30
	w.gets(2, "bad twice", func() {
		if _, err := w.View(t.Context(), o.Object, 100, 100); !errors.Is(err, objectstore.ErrChecksum) {
			t.Errorf("got %v, want ErrChecksum", err)
		}
	})
	bad = 0
	w.gets(1, "an error is not remembered", func() { w.read(o, 100, 100) })
	if s := w.Stats(); s.BadGets != 3 {
		t.Errorf("stats: %+v", s)
	}
	cut := errors.New("cut")
	w.Drop(o.Key)
	w.store.then(func(context.Context, string, []byte, int64) error { return cut })
	w.gets(1, "an error of the store is its caller's to retry", func() {
		if _, err := w.View(t.Context(), o.Object, 0, 10); !errors.Is(err, cut) {
			t.Errorf("got %v", err)
		}
	})
	if s := w.Stats(); s.ColdBytes != 0 || s.Chunks != 0 {
		t.Errorf("after errors: %+v", s)
	}
}

func TestReadersOfAChunkShareOneGet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, cache.Config{ColdBytes: 1 << 20})
		o := w.objects[0]
		open := make(chan struct{})
		w.store.then(func(context.Context, string, []byte, int64) error { <-open; return nil })
		ctx, giveUp := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		w.gets(1, "all readers of one chunk", func() {
			wg.Go(func() { // the first one asks, and gives up
				if _, err := w.View(ctx, o.Object, 2200, 10); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
			})
			synctest.Wait()
			for i := range 10 {
				wg.Go(func() { w.read(o, 2200+int64(i)*50, 60) })
			}
			synctest.Wait()
			giveUp()
			synctest.Wait()
			close(open)
			wg.Wait()
		})
		// All give up: the download goes on for the next one.
		open = make(chan struct{})
		w.gets(1, "a download that nobody waits for", func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := w.View(ctx, o.Object, 100, 10); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			close(open)
			cache.Settle(w.Cache)
			w.read(o, 100, 10)
		})
		w.Close()
	})
}

func TestChunksAreTheSameForEveryReader(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		o := newObject(rng, "k", rapid.IntRange(1, 8000).Draw(rt, "size"))
		if rapid.Bool().Draw(rt, "one large block") {
			n := o.Length - directoryBytes
			o.Blocks = objectstore.Blocks{Ends: []int64{n}, Sums: []uint32{crc32.Checksum(o.data[:n], table)}}
		}
		w := newWorld(t, 0, cache.Config{ColdBytes: 1 << 20})
		defer w.Close()
		must(t, w.store.Put(t.Context(), o.Key, objectstore.NewBytes(o.data)))
		data := o.Length - directoryBytes
		for range 20 {
			off := rng.Int64N(data)
			w.read(o, off, 1+rng.Int64N(data-off))
		}
		w.read(o, 0, data)
		if got, most := w.store.gets.Load(), data/chunkBytes+1; got > most {
			rt.Errorf("%d GETs for %d bytes in chunks of %d, want at most %d: no byte is fetched twice", got, data, chunkBytes, most)
		}
		if s := w.Stats(); s.GetBytes != data {
			rt.Errorf("fetched %d bytes of %d", s.GetBytes, data)
		}
	})
}

func TestColdRequestsAreBoundedAndHaveMemoryOnlyInTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20, cache.Config{ColdBytes: 1 << 20, ColdRequests: 3})
		w.store.then(func(context.Context, string, []byte, int64) error { time.Sleep(time.Millisecond); return nil }) // virtual
		var wg sync.WaitGroup
		for _, o := range w.objects {
			wg.Go(func() { w.read(o, 0, o.Length) })
		}
		time.Sleep(time.Microsecond)
		synctest.Wait()
		if s := w.Stats(); s.ColdBytes > 3*16<<10 {
			t.Errorf("%d bytes for three GETs on their way", s.ColdBytes)
		}
		wg.Wait()
		if peak := w.store.peak.Load(); peak != 3 {
			t.Errorf("%d GETs at one time, want 3", peak)
		}
		w.Close()
	})
}

func TestAViewSaysWhetherItWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, cache.Config{ColdBytes: 1 << 20, MemoryBytes: 1 << 20})
		w.store.then(func(context.Context, string, []byte, int64) error { time.Sleep(time.Millisecond); return nil })
		waited := func(o object, view func(context.Context, cache.Object, int64, int64) (cache.View, error)) bool {
			t.Helper()
			v, err := view(t.Context(), o.Object, 0, 10)
			must(t, err)
			defer v.Release()
			return v.Waited()
		}
		some := func(ctx context.Context, o cache.Object, off, n int64) (cache.View, error) {
			return w.Some(ctx, o, off, n, cache.Wait)
		}
		cold, image := w.objects[0], w.objects[1]
		w.addImage(image)
		if !waited(cold, w.View) || waited(cold, w.View) || waited(cold, some) || waited(image, w.View) {
			t.Error("only the first view of what is cold waits")
		}
		must(t, w.Evict())
		if !waited(cold, some) || waited(cold, some) {
			t.Error("only the first view of some of it waits")
		}
		w.Close()
	})
}

func TestSomeTakesWhatIsAtHand(t *testing.T) {
	w := newWorld(t, 1, cache.Config{ColdBytes: 1 << 20})
	o := w.objects[0]
	some := func(off, n int64, effort cache.Effort) (int, error) {
		v, err := w.Some(t.Context(), o.Object, off, n, effort)
		got := slices.Concat(v.Slices...)
		if !bytes.Equal(got, o.data[off:off+int64(len(got))]) {
			t.Fatalf("some of [%d, +%d) brought other bytes", off, n)
		}
		v.Release()
		return len(got), err
	}
	if _, err := some(0, 100, cache.Copy); !errors.Is(err, cache.ErrBusy) {
		t.Errorf("a download that was not to be waited for: %v", err)
	}
	cache.Settle(w.Cache)
	first, err := some(0, 3000, cache.Copy) // it was begun
	if err != nil || first < chunkBytes/2 || first > 2*chunkBytes {
		t.Errorf("%d bytes of the first chunk: %v", first, err)
	}
	w.gets(0, "what is at hand", func() { must(t, second(some(0, 3000, cache.Wait))) })
	w.gets(1, "the next chunk", func() { must(t, second(some(int64(first), 100, cache.Wait))) })
	if n, err := some(0, 3000, cache.Copy); err != nil || n <= first {
		t.Errorf("%d bytes of two chunks: %v", n, err)
	}
	must(t, second(some(4990, 47, cache.Wait))) // into the directory
	w.store.then(func(ctx context.Context, _ string, _ []byte, _ int64) error { <-ctx.Done(); return ctx.Err() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Some(ctx, o.Object, 3000, 10, cache.Wait); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSomeReadsAFileOnlyIfItIsWorthIt(t *testing.T) {
	w := newWorld(t, 2, cache.Config{Dir: t.TempDir(), DiskBytes: 1 << 20, ColdBytes: 1 << 20})
	kept, cold := w.objects[0], w.objects[1]
	must(t, w.Keep(kept.Key, objectstore.NewBytes(kept.data), time.Now().Add(time.Hour)))
	w.gets(0, "of what is on disk", func() {
		if _, err := w.Some(t.Context(), kept.Object, 0, 10, cache.Begin); !errors.Is(err, cache.ErrBusy) {
			t.Errorf("without effort: %v", err)
		}
		for _, effort := range []cache.Effort{cache.Copy, cache.Wait} {
			v, err := w.Some(t.Context(), kept.Object, 0, 10, effort)
			must(t, err)
			v.Release()
		}
	})
	w.gets(1, "of what is cold", func() {
		if _, err := w.Some(t.Context(), cold.Object, 0, 10, cache.Begin); !errors.Is(err, cache.ErrBusy) {
			t.Errorf("without effort: %v", err)
		}
		cache.Settle(w.Cache)
		v, err := w.Some(t.Context(), cold.Object, 0, 10, cache.Begin) // it has come
		must(t, err)
		v.Release()
	})
}

func second(_ int, err error) error { return err }

// Where two extents meet in a chunk, one reader comes to its end long before the other comes to it.
func TestAChunkIsReadWhenAllOfItWas(t *testing.T) {
	w := newWorld(t, 3, cache.Config{ColdBytes: 2 * 16 << 10})
	shared, whole, third := w.objects[0], w.objects[1], w.objects[2]
	first := func(o object) (end int64) {
		for _, end = range o.Blocks.Ends {
			if end >= chunkBytes {
				break
			}
		}
		return end
	}
	w.read(shared, 500, first(shared)-500)
	w.read(whole, 0, first(whole))
	w.read(third, 0, first(third)) // takes the place of what was read
	w.gets(0, "the half that nobody had read", func() { w.read(shared, 0, 500) })
	w.gets(1, "what was read to its end", func() { w.read(whole, 0, 10) })
}

// More readers than there is room for chunks: each comes to its end, and nothing is fetched twice.
func TestManyReadersAtOnceFetchNothingTwice(t *testing.T) {
	const readers, step = 12, 230
	now := time.Unix(1_700_000_000, 0)
	w := newWorld(t, readers, cache.Config{ColdBytes: 8 * 16 << 10, Now: func() time.Time { return now }})
	at := make([]int64, readers)
	rounds := 0
	for left := readers; left > 0; rounds++ {
		moved := false
		for i, o := range w.objects {
			if at[i] == 5000 {
				continue
			}
			v, err := w.Some(t.Context(), o.Object, at[i], min(step, 5000-at[i]), cache.Wait)
			if errors.Is(err, cache.ErrBusy) {
				continue
			}
			must(t, err)
			for _, s := range v.Slices {
				at[i] += int64(len(s))
			}
			v.Release()
			moved = true
			if at[i] == 5000 {
				left--
			}
		}
		if !moved {
			t.Fatalf("nobody gets on: %v", at)
		}
	}
	if got := w.store.gets.Load(); got != readers*5 {
		t.Errorf("%d GETs in %d rounds, want %d", got, rounds, readers*5)
	}
	// What nobody reads on with holds nobody up.
	must(t, w.Evict())
	for _, o := range w.objects[:6] {
		v, err := w.Some(t.Context(), o.Object, 0, 10, cache.Wait)
		must(t, err)
		v.Release()
	}
	if _, err := w.Some(t.Context(), w.objects[7].Object, 0, 10, cache.Wait); !errors.Is(err, cache.ErrBusy) {
		t.Errorf("six chunks of eight are being read, two are left to prefetches: got %v", err)
	}
	now = now.Add(time.Minute)
	v, err := w.Some(t.Context(), w.objects[7].Object, 0, 10, cache.Wait)
	must(t, err)
	v.Release()
}

func TestPrefetchNeverWaitsAndIsJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, cache.Config{ColdBytes: 1 << 20, ColdRequests: 4, MemoryBytes: 1 << 20})
		o, other := w.objects[0], w.objects[1]
		open := make(chan struct{})
		w.store.then(func(context.Context, string, []byte, int64) error { <-open; return nil })
		var wg sync.WaitGroup
		w.gets(2, "half of four requests", func() {
			w.Prefetch(o.Object, 0, o.Length)
			w.Prefetch(o.Object, 0, o.Length)
			w.Prefetch(o.Object, -1, 1<<40)
			synctest.Wait()
			wg.Go(func() { w.read(o, 0, 2000) }) // joins both, or nearly: a third chunk may hold the last block
			synctest.Wait()
			close(open)
			wg.Wait()
			cache.Settle(w.Cache)
			w.read(o, 0, 1500)
		})
		w.addImage(other)
		w.gets(0, "an image needs no prefetch", func() { w.Prefetch(other.Object, 0, other.Length); synctest.Wait() })
		if s := w.Stats(); s.Prefetches != 2 {
			t.Errorf("stats: %+v", s)
		}
		w.Close()
		w.Prefetch(o.Object, 3000, 1000)
		if _, err := w.View(t.Context(), o.Object, 0, 10); err == nil {
			t.Error("a closed cache downloads")
		}
	})
}

// Readers of many objects at once would drive each other's chunks out, and fetch everything twice.
func TestPrefetchTakesNothingFromWhoIsInTheMiddleOfIt(t *testing.T) {
	const buffer = 16 << 10 // of the smallest chunk
	w := newWorld(t, 5, cache.Config{ColdBytes: 4 * buffer})
	for _, o := range w.objects[:4] {
		w.read(o, 0, 10)
	}
	next := w.objects[4]
	ahead := func() { w.Prefetch(next.Object, 0, 10); cache.Settle(w.Cache) }
	w.gets(0, "a prefetch into a full cache", ahead)
	w.gets(0, "chunks that are being read", func() {
		for _, o := range w.objects[:4] {
			w.read(o, 0, 10)
		}
	})
	first := w.objects[0]
	end := first.Blocks.Ends[0] // of its first chunk: blocks that start within chunkBytes
	for i := 1; i < len(first.Blocks.Ends) && end < chunkBytes; i++ {
		end = first.Blocks.Ends[i]
	}
	w.gets(0, "the rest of a chunk", func() { w.read(first, 10, end-10) })
	w.gets(1, "a prefetch in place of what was read to its end", ahead)
	w.gets(0, "what is still being read, and what was prefetched", func() {
		for _, o := range w.objects[1:] {
			w.read(o, 0, 10)
		}
	})
	w.gets(1, "what was read to its end", func() { w.read(first, 0, 10) })
}

func TestImagesBeyondMemoryGoToDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10, cache.Config{Dir: t.TempDir(), MemoryBytes: 4 * 5037, DiskBytes: 3 * 5037})
		ctx, stop := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() {
			if err := w.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		var images []*image
		for _, o := range w.objects {
			images = append(images, w.addImage(o))
			synctest.Wait()
		}
		s := w.Stats()
		if s.Images != 4 || s.Files != 3 || s.SpilledBytes != 6*5037 || s.ImageBytes != 4*5037 || s.DiskBytes != 3*5037 {
			t.Errorf("stats: %+v", s)
		}
		for i, im := range images {
			if alive := im.refs.Load() == 1; alive != (i >= 6) {
				t.Errorf("image %d has %d references", i, im.refs.Load())
			}
		}
		w.gets(0, "images and files", func() {
			for _, o := range w.objects[3:] {
				w.read(o, 100, 4000)
			}
		})
		if s := w.Stats(); s.ImageHits != 4 || s.DiskHits != 3 {
			t.Errorf("stats: %+v", s)
		}
		stop()
		run.Wait()
		w.Close()
	})
}

// More slices than one call takes; and on a filesystem that must keep the pages that it writes.
func TestAnImageIsWrittenFromItsSlices(t *testing.T) {
	dirs := []string{t.TempDir()}
	if dir, err := os.MkdirTemp("/dev/shm", "varve-cache-"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		dirs = append(dirs, dir)
	}
	for _, dir := range dirs {
		w := newWorld(t, 1, cache.Config{Dir: dir, DiskBytes: 1 << 20})
		o := w.objects[0]
		im := newImage(t, o)
		im.step = 1
		must(t, w.Keep(o.Key, im, time.Now().Add(time.Hour)))
		im.Release()
		w.gets(0, "a whole copy", func() { w.read(o, 0, o.Length) })
	}
}

// large adds an object that takes several writes.
func (w *world) large(key string, size int) object {
	w.t.Helper()
	o := newObject(w.rng, key, 0)
	o.data = bytes.Repeat(newObject(w.rng, "", 1<<16-directoryBytes).data, size>>16)
	o.Length = int64(len(o.data))
	for at := int64(0); at < o.Length; at += 1 << 18 {
		end := min(at+1<<18, o.Length)
		o.Blocks.Ends = append(o.Blocks.Ends, end)
		o.Blocks.Sums = append(o.Blocks.Sums, crc32.Checksum(o.data[at:end], table))
	}
	must(w.t, w.store.Put(w.t.Context(), o.Key, objectstore.NewBytes(o.data)))
	return o
}

// An heir is written at its pace, until memory needs its room or the agent stops; what is written is kept all the same.
func TestHeirsAreWrittenAtTheirPace(t *testing.T) {
	const size, rate = 16 << 20, 1 << 20
	start := func(t *testing.T) (w *world, heir object, stop func()) {
		w = newWorld(t, 0, cache.Config{Dir: t.TempDir(), MemoryBytes: size + 1<<20, DiskBytes: 1 << 30})
		ctx, end := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() {
			if err := w.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		heir = w.large("seg/1", size)
		im := newImage(t, heir)
		im.step = 1 << 18
		w.Succeed(nil, []cache.Heir{{Key: heir.Key, Image: im, Until: time.Now().Add(time.Hour), Pace: rate}}, size)
		return w, heir, func() { end(); run.Wait(); w.Close() }
	}
	copied := func(w *world) bool { return w.Stats().SpilledBytes == size && w.Stats().Files == 1 }
	t.Run("while there is room", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, _, stop := start(t)
			defer stop()
			time.Sleep(13 * time.Second)
			synctest.Wait()
			if copied(w) {
				t.Error("16 MiB at 1 MiB/s were written within 13 s")
			}
			time.Sleep(3 * time.Second)
			synctest.Wait()
			if !copied(w) {
				t.Errorf("not written in its time: %+v", w.Stats())
			}
		})
	})
	t.Run("when memory is due", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, heir, stop := start(t)
			defer stop()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			next := w.large("wal/2", 2<<20)
			w.addImage(next)
			synctest.Wait()
			if s := w.Stats(); s.Images != 1 || s.ImagesDropped != 0 || !copied(w) {
				t.Errorf("the heir had to go: %+v", s)
			}
			w.gets(0, "its copy", func() { w.read(heir, 0, heir.Length) })
		})
	})
	t.Run("when the agent stops", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, _, stop := start(t)
			time.Sleep(2 * time.Second)
			began := time.Now()
			stop()
			if took := time.Since(began); took > 0 || !copied(w) {
				t.Errorf("after %s: %+v", took, w.Stats())
			}
		})
	})
	t.Run("and not once it is dropped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, heir, stop := start(t)
			time.Sleep(2 * time.Second)
			synctest.Wait()
			w.Drop(heir.Key)
			stop()
			if names, _ := files(t, w.dir); len(names) > 0 {
				t.Errorf("files: %v", names)
			}
		})
	})
}

// A large file goes in steps. Who reads it meanwhile finds it short, and the bytes elsewhere: that is no news.
func TestALargeFileThatGoesIsNotBad(t *testing.T) {
	w := newWorld(t, 0, cache.Config{Dir: t.TempDir(), DiskBytes: 1 << 30})
	o := w.large("seg/1", 40<<20)
	must(t, w.Keep(o.Key, objectstore.NewBytes(o.data), time.Now().Add(time.Hour)))
	short := cache.Found(w.Cache, o.Key)
	w.Drop(o.Key)
	short(io.ErrUnexpectedEOF)
	if names, _ := files(t, w.dir); len(names) > 0 || w.Stats().BadFiles > 0 {
		t.Errorf("files: %v, %d were found bad", names, w.Stats().BadFiles)
	}
	w.gets(1, "what has gone", func() { w.read(o, 0, 1<<18) })
}

func TestWithoutADiskTheOldestImagesGo(t *testing.T) {
	w := newWorld(t, 5, cache.Config{MemoryBytes: 2 * 5037})
	v, err := func() (cache.View, error) {
		w.addImage(w.objects[0])
		return w.View(t.Context(), w.objects[0].Object, 10, 100)
	}()
	must(t, err)
	for _, o := range w.objects[1:] {
		w.addImage(o)
	}
	if s := w.Stats(); s.Images != 2 || s.ImagesDropped != 3 {
		t.Errorf("stats: %+v", s)
	}
	if got := slices.Concat(v.Slices...); !bytes.Equal(got, w.objects[0].data[10:110]) {
		t.Error("a view lost its bytes when the image was evicted")
	}
	v.Release()
	w.gets(0, "the newest", func() { w.read(w.objects[4], 0, 10) })
}

// succeed replaces images by heirs that borrow their bytes, as a seal does.
func (w *world) succeed(old []object, heirs []object, until time.Time) (made []*image) {
	w.t.Helper()
	var keys []string
	var held int64
	for _, o := range old {
		keys, held = append(keys, o.Key), held+o.Length
	}
	var xs []cache.Heir
	for _, o := range heirs {
		im := newImage(w.t, o)
		made, xs = append(made, im), append(xs, cache.Heir{Key: o.Key, Image: im, Until: until})
	}
	w.Succeed(keys, xs, held)
	return made
}

func TestHeirsStayInMemoryAndAreWrittenWhenItIsShort(t *testing.T) {
	dir := t.TempDir()
	size := int64(5000 + directoryBytes)
	w := newWorld(t, 10, cache.Config{Dir: dir, MemoryBytes: 8 * size, DiskBytes: 1 << 20})
	first, second, third := w.objects[0], w.objects[1], w.objects[2]
	old := w.addImage(first)
	v, err := w.View(t.Context(), first.Object, 0, 10)
	must(t, err)
	if !v.Borrowed() {
		t.Error("a view of an image is not borrowed")
	}
	v.Release()
	w.addImage(second)
	heirs := w.succeed(w.objects[:2], w.objects[2:4], time.Now().Add(time.Hour))
	if old.refs.Load() != 0 {
		t.Error("a succeeded image is held")
	}
	v, err = w.View(t.Context(), third.Object, 0, 10)
	must(t, err)
	if v.Borrowed() {
		t.Error("what borrows from an heir would keep its memory when it has gone")
	}
	v.Release()
	cache.Spill(w.Cache)
	if names, _ := files(t, dir); len(names) != 0 || w.Stats().ImageBytes != 2*size {
		t.Fatalf("there is room, and these files: %v; %+v", names, w.Stats())
	}
	for _, o := range w.objects[4:9] { // 7 of 8: not short yet
		w.addImage(o)
	}
	cache.Spill(w.Cache)
	if names, _ := files(t, dir); len(names) != 0 {
		t.Fatalf("files: %v", names)
	}
	w.addImage(w.objects[9])
	cache.Spill(w.Cache)
	if names, _ := files(t, dir); len(names) != 2 || heirs[0].refs.Load() != 1 {
		t.Fatalf("memory is short, and files are %v", names)
	}
	w.addImage(first) // one too many: the oldest go at once, both, since they share their memory
	if heirs[0].refs.Load() != 0 || heirs[1].refs.Load() != 0 || w.Stats().ImageBytes != 7*size || w.Stats().ImagesDropped != 0 {
		t.Fatalf("heirs have %d and %d references; %+v", heirs[0].refs.Load(), heirs[1].refs.Load(), w.Stats())
	}
	w.gets(0, "heirs on disk", func() { w.read(third, 0, third.Length); w.read(w.objects[3], 0, 100) })
}

func TestMemoryOfHeirsGoesWithTheLast(t *testing.T) {
	w := newWorld(t, 4, cache.Config{MemoryBytes: 1 << 20})
	heirs := w.succeed(nil, w.objects[:2], time.Time{})
	w.addImage(w.objects[2])
	w.succeed(w.objects[2:3], nil, time.Time{})
	w.succeed(w.objects[3:4], w.objects[3:4], time.Time{})
	w.Drop(w.objects[0].Key)
	if heirs[0].refs.Load() != 0 || heirs[1].refs.Load() != 1 {
		t.Errorf("references: %d and %d", heirs[0].refs.Load(), heirs[1].refs.Load())
	}
	if s := w.Stats(); s.Images != 2 || s.ImageBytes != w.objects[3].Length {
		t.Errorf("stats: %+v", s)
	}
	w.Drop(w.objects[1].Key, w.objects[3].Key)
	if s := w.Stats(); s.Images != 0 || s.ImageBytes != 0 || s.ImagesDropped != 0 {
		t.Errorf("stats at the end: %+v", s)
	}
	w.Close()
	if late := w.succeed(nil, w.objects[:1], time.Time{}); late[0].refs.Load() != 0 {
		t.Error("a closed cache holds an heir")
	}
}

func TestSlowDiskDropsInsteadOfGrowing(t *testing.T) {
	w := newWorld(t, 20, cache.Config{Dir: t.TempDir(), MemoryBytes: 8 * 5037, DiskBytes: 1 << 20})
	for _, o := range w.objects {
		w.addImage(o) // nobody runs Run
	}
	if s := w.Stats(); s.ImageBytes > 10*5037 || s.ImagesDropped != 10 {
		t.Errorf("stats: %+v", s)
	}
	cache.Spill(w.Cache)
	if s := w.Stats(); s.Files != 2 || s.Images != 8 {
		t.Errorf("stats: %+v", s)
	}
}

func TestWhatIsWantedLongestStaysOnDisk(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	cfg := cache.Config{Dir: t.TempDir(), DiskBytes: 3 * 5037, Now: func() time.Time { return now }}
	w := newWorld(t, 6, cfg)
	keep := func(i int, d time.Duration) {
		t.Helper()
		must(t, w.Keep(w.objects[i].Key, objectstore.NewBytes(w.objects[i].data), now.Add(d)))
	}
	has := func(want ...int) {
		t.Helper()
		for i, o := range w.objects {
			hits := w.Stats().DiskHits
			w.read(o, 0, 10)
			if got := w.Stats().DiskHits > hits; got != slices.Contains(want, i) {
				t.Errorf("object %d on disk: %v, want those of %v", i, got, want)
			}
		}
	}
	keep(0, time.Hour)
	keep(1, 3*time.Hour)
	keep(2, 0) // by last use
	has(0, 1, 2)
	keep(3, 2*time.Hour)
	has(0, 1, 3)
	keep(4, time.Minute) // would be the first to go
	has(0, 1, 3)
	keep(4, 5*time.Hour)
	has(1, 3, 4)
	w.reopen(cfg) // and all this outlives the process
	keep(5, 4*time.Hour)
	has(1, 4, 5)
	now = now.Add(6 * time.Hour)
	keep(2, 0)
	has(4, 5, 2) // 1 was wanted shortest
	keep(3, 0)
	if s := w.Stats(); s.Files != 3 || s.DiskBytes > cfg.DiskBytes {
		t.Errorf("stats: %+v", s)
	}
}

func TestFilesAreAdoptedAndOthersLeftAlone(t *testing.T) {
	dir := t.TempDir()
	cfg := cache.Config{Dir: dir, DiskBytes: 1 << 20, ColdBytes: 1 << 20}
	w := newWorld(t, 2, cfg)
	o, liar := w.objects[0], w.objects[1]
	must(t, w.Keep(o.Key, objectstore.NewBytes(o.data), time.Time{}))
	must(t, w.Keep(liar.Key, objectstore.NewBytes(o.data[:77]), time.Time{})) // another length
	for _, name := range []string{"README", "wal+00+7+object+3+part"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
	}
	w.reopen(cfg)
	if names, _ := files(t, dir); len(names) != 3 {
		t.Errorf("files: %v, want both copies and README", names)
	}
	w.gets(0, "adopted", func() { w.read(o, 0, o.Length) })
	w.gets(1, "wrong length", func() { w.read(liar, 0, 50) })
	must(t, w.Evict())
	if names, _ := files(t, dir); !slices.Equal(names, []string{"README"}) {
		t.Errorf("files after Evict: %v", names)
	}
	small := cfg
	small.DiskBytes = 100
	must(t, w.Keep(o.Key, objectstore.NewBytes(o.data), time.Time{}))
	w.reopen(small)
	if s := w.Stats(); s.Files != 0 {
		t.Errorf("a smaller disk keeps %+v", s)
	}
}

func TestDiskThatCannotBeWrittenIsLeftAloneForAWhile(t *testing.T) {
	now := time.Now()
	var log bytes.Buffer
	dir := filepath.Join(t.TempDir(), "gone")
	w := newWorld(t, 5, cache.Config{
		Dir: dir, MemoryBytes: 5037, DiskBytes: 1 << 20, Now: func() time.Time { return now },
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	must(t, os.RemoveAll(dir))
	for _, o := range w.objects[:4] {
		w.addImage(o)
		cache.Spill(w.Cache)
	}
	s := w.Stats()
	if s.WriteErrors != 1 || s.Images != 1 || s.Files != 0 || s.DiskBytes != 0 || strings.Count(log.String(), "level=WARN") != 1 {
		t.Errorf("stats: %+v\n%s", s, log.String())
	}
	for _, o := range w.objects {
		w.read(o, 0, o.Length)
	}
	must(t, os.Mkdir(dir, 0o700))
	now = now.Add(cache.WritePause)
	w.addImage(w.objects[4])
	cache.Spill(w.Cache)
	if s := w.Stats(); s.Files != 1 {
		t.Errorf("after the pause: %+v", s)
	}
	must(t, os.RemoveAll(dir))
	if err := w.Keep(w.objects[0].Key, objectstore.NewBytes(w.objects[0].data), now.Add(time.Hour)); err == nil {
		t.Error("Keep says nothing of a disk that fails")
	}
}

func TestViewOfAnImageAllocatesNothing(t *testing.T) {
	w := newWorld(t, 1, cache.Config{MemoryBytes: 1 << 20})
	o := w.objects[0]
	w.addImage(o)
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		v, err := w.View(ctx, o.Object, 100, 4000)
		if err != nil {
			t.Fatal(err)
		}
		v.Release()
	}); n > 0 && !raceDetector {
		t.Errorf("%v allocations", n)
	}
}

func TestMetricsAreRegistered(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	w := newWorld(t, 1, cache.Config{ColdBytes: 1 << 20, Registry: reg})
	w.read(w.objects[0], 0, 10)
	found, err := reg.Gather()
	must(t, err)
	if len(found) != 11 {
		t.Errorf("%d metrics", len(found))
	}
}

// TestBudgets drives random calls and checks every bound, every byte and every reference.
func TestBudgets(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := newDisk(t, rapid.Int64Range(0, 9*5037).Draw(rt, "size"))
		dir := d.dir
		now := time.Unix(1_700_000_000, 0)
		cfg := cache.Config{
			Dir:         dir,
			FreeBytes:   rapid.Int64Range(0, 4*5037).Draw(rt, "free"),
			Free:        d.free,
			MemoryBytes: rapid.Int64Range(0, 5*5037).Draw(rt, "memory"),
			DiskBytes:   rapid.Int64Range(0, 5*5037).Draw(rt, "disk"),
			ColdBytes:   rapid.Int64Range(0, 10*16<<10).Draw(rt, "cold"),
			Now:         func() time.Time { return now },
		}
		w := newWorld(t, 8, cfg)
		defer w.Close()
		var images []*image
		var views []cache.View
		var wants [][]byte
		pick := func(rt *rapid.T) object { return w.objects[rapid.IntRange(0, len(w.objects)-1).Draw(rt, "object")] }
		rt.Repeat(map[string]func(*rapid.T){
			"image": func(rt *rapid.T) { images = append(images, w.addImage(pick(rt))) },
			"succeed": func(rt *rapid.T) {
				at, hours := rapid.IntRange(0, len(w.objects)-2).Draw(rt, "at"), rapid.IntRange(-1, 5).Draw(rt, "hours")
				images = append(images, w.succeed([]object{pick(rt), pick(rt)}, w.objects[at:at+2], now.Add(time.Duration(hours)*time.Hour))...)
			},
			"keep": func(rt *rapid.T) {
				o := pick(rt)
				must(t, w.Keep(o.Key, objectstore.NewBytes(o.data), now.Add(time.Duration(rapid.IntRange(-1, 5).Draw(rt, "hours"))*time.Hour)))
			},
			"view": func(rt *rapid.T) {
				o := pick(rt)
				off := rapid.Int64Range(0, o.Length).Draw(rt, "off")
				n := rapid.Int64Range(0, o.Length-off).Draw(rt, "n")
				v, err := w.View(t.Context(), o.Object, off, n)
				must(t, err)
				views, wants = append(views, v), append(wants, o.data[off:off+n])
			},
			"release": func(rt *rapid.T) {
				if len(views) == 0 {
					rt.Skip()
				}
				i := rapid.IntRange(0, len(views)-1).Draw(rt, "view")
				if !bytes.Equal(slices.Concat(views[i].Slices...), wants[i]) {
					rt.Fatal("a view's bytes changed")
				}
				views[i].Release()
				views, wants = slices.Delete(views, i, i+1), slices.Delete(wants, i, i+1)
			},
			"prefetch": func(rt *rapid.T) { w.Prefetch(pick(rt).Object, rapid.Int64Range(0, 5000).Draw(rt, "off"), 2000) },
			"drop":     func(rt *rapid.T) { w.Drop(pick(rt).Key, pick(rt).Key) },
			"evict":    func(rt *rapid.T) { must(t, w.Evict()) },
			"spill":    func(rt *rapid.T) { cache.Spill(w.Cache) },
			"time":     func(rt *rapid.T) { now = now.Add(time.Hour) },
			"others":   func(rt *rapid.T) { d.others.Store(rapid.Int64Range(0, 5*5037).Draw(rt, "others")) },
			"room": func(rt *rapid.T) {
				for range len(w.objects) { // one that vanished makes no room, which shows at the next look
					cache.MakeRoom(w.Cache)
				}
				if free, _ := d.free(dir); cfg.FreeBytes > 0 && free < cfg.FreeBytes && w.Stats().Files > 0 {
					rt.Fatalf("%d bytes are free, want %d, and there are copies: %+v", free, cfg.FreeBytes, w.Stats())
				}
			},
			"vanish": func(rt *rapid.T) {
				if names, _ := files(t, dir); len(names) > 0 {
					must(t, os.Remove(filepath.Join(dir, names[0])))
				}
			},
			"restart": func(rt *rapid.T) {
				for _, v := range views {
					v.Release()
				}
				views, wants = nil, nil
				w.reopen(cfg)
			},
			"": func(rt *rapid.T) {
				cache.Settle(w.Cache)
				s := w.Stats()
				if s.ImageBytes > cfg.MemoryBytes+max(5037, cfg.MemoryBytes/cache.BacklogShare) {
					rt.Fatalf("%d bytes of images, bound %d", s.ImageBytes, cfg.MemoryBytes)
				}
				if _, size := files(t, dir); s.DiskBytes > cfg.DiskBytes || size > s.DiskBytes {
					rt.Fatalf("%d bytes of files, %d on disk, bound %d", s.DiskBytes, size, cfg.DiskBytes)
				}
				if s.ColdBytes > cfg.ColdBytes && len(views) == 0 {
					rt.Fatalf("%d bytes of chunks, bound %d, and no views", s.ColdBytes, cfg.ColdBytes)
				}
			},
		})
		for _, v := range views {
			v.Release()
		}
		w.Close()
		for i, im := range images {
			if n := im.refs.Load(); n != 0 {
				rt.Fatalf("image %d has %d references at the end", i, n)
			}
		}
		if s := w.Stats(); s.ImageBytes != 0 || s.ColdBytes != 0 {
			rt.Fatalf("memory at the end: %+v", s)
		}
	})
}

func TestConcurrentReadersWritersAndEvictions(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, 8, cache.Config{Dir: dir, MemoryBytes: 2 * 5037, DiskBytes: 3 * 5037, ColdBytes: 8 * 16 << 10, ColdRequests: 4})
	ctx, stop := context.WithCancel(t.Context())
	var run, readers, others sync.WaitGroup
	run.Go(func() { _ = w.Run(ctx) })
	for i := range uint64(4) {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(i, 3))
			for range 300 {
				o := w.objects[rng.IntN(len(w.objects))]
				off := rng.Int64N(o.Length)
				n := rng.Int64N(o.Length - off)
				v, err := w.View(ctx, o.Object, off, n)
				if err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(slices.Concat(v.Slices...), o.data[off:off+n]) {
					t.Error("other bytes")
				}
				v.Release()
			}
		})
	}
	var mu sync.Mutex
	var images []*image
	end := make(chan struct{})
	for i := range uint64(2) {
		others.Go(func() {
			rng := rand.New(rand.NewPCG(i, 4))
			for {
				select {
				case <-end:
					return
				default:
				}
				o := w.objects[rng.IntN(len(w.objects))]
				switch rng.IntN(10) {
				case 0:
					w.Drop(o.Key)
				case 1:
					if rng.IntN(10) == 0 {
						_ = w.Evict()
					}
				case 2, 3:
					_ = w.Keep(o.Key, objectstore.NewBytes(o.data), time.Now().Add(time.Hour))
				case 4:
					if names, err := os.ReadDir(dir); err == nil && len(names) > 0 {
						_ = os.Remove(filepath.Join(dir, names[rng.IntN(len(names))].Name()))
					}
				case 5:
					w.Prefetch(o.Object, rng.Int64N(5000), 2000)
				default:
					im := w.addImage(o)
					mu.Lock()
					images = append(images, im)
					mu.Unlock()
				}
			}
		})
	}
	readers.Wait()
	close(end)
	others.Wait()
	stop()
	run.Wait()
	w.Close()
	for _, im := range images {
		if n := im.refs.Load(); n != 0 {
			t.Fatalf("an image has %d references at the end", n)
		}
	}
	if s := w.Stats(); s.BadGets != 0 || s.ColdBytes != 0 || s.ImageBytes != 0 {
		t.Errorf("stats: %+v", s)
	}
}

// FuzzView asks for arbitrary ranges of an object whose index says arbitrary things.
func FuzzView(f *testing.F) {
	f.Add(int64(5037), int64(0), int64(10), []byte{1, 2, 3})
	f.Add(int64(1)<<60, int64(1)<<59, int64(1)<<59, []byte{255, 0, 255})
	f.Add(int64(-5), int64(-1), int64(3), []byte{})
	w := newWorld(f, 1, cache.Config{Dir: f.TempDir(), DiskBytes: 1 << 20, ColdBytes: 1 << 20})
	o := w.objects[0]
	f.Fuzz(func(t *testing.T, length, off, n int64, blocks []byte) {
		if length > 1<<24 && length < 1<<30 {
			return // allowed, and only slow
		}
		odd := cache.Object{Key: o.Key, Length: length}
		var end int64
		for i, b := range blocks {
			end += int64(int8(b)) * 50
			odd.Blocks.Ends = append(odd.Blocks.Ends, end)
			if i%64 != 63 {
				odd.Blocks.Sums = append(odd.Blocks.Sums, uint32(b))
			}
		}
		w.Prefetch(odd, off, n)
		v, err := w.View(t.Context(), odd, off, n)
		if err != nil {
			return
		}
		var got int64
		for _, s := range v.Slices {
			got += int64(len(s))
		}
		if got != n {
			t.Errorf("%d bytes of %d", got, n)
		}
		v.Release()
	})
}

func BenchmarkView(b *testing.B) {
	const size, n = 8 << 20, 1 << 20
	rng := rand.New(rand.NewPCG(1, 1))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	o := object{cache.Object{Key: "k", Length: size}, data}
	for at := int64(0); at < size; at += 128 << 10 {
		o.Blocks.Ends = append(o.Blocks.Ends, at+128<<10)
		o.Blocks.Sums = append(o.Blocks.Sums, crc32.Checksum(data[at:at+128<<10], table))
	}
	below := memory.New()
	must(b, below.Put(b.Context(), "k", objectstore.NewBytes(data)))
	for place, fill := range map[string]func(*cache.Cache){
		"image": func(c *cache.Cache) {
			im := newImage(b, o)
			im.step = 16 << 10 // a batch
			c.AddImage("k", im)
		},
		"disk": func(c *cache.Cache) { must(b, c.Keep("k", objectstore.NewBytes(data), time.Now().Add(time.Hour))) },
		"cold": func(*cache.Cache) {},
	} {
		b.Run(place, func(b *testing.B) {
			c, err := cache.New(below, cache.Config{Dir: b.TempDir(), MemoryBytes: 1 << 30, DiskBytes: 1 << 30, ColdBytes: 1 << 30})
			must(b, err)
			defer c.Close()
			fill(c)
			b.SetBytes(n)
			b.ReportAllocs()
			var at int64
			for b.Loop() {
				v, err := c.View(b.Context(), o.Object, at%(size-n), n)
				must(b, err)
				v.Release()
				at += n / 2
			}
		})
	}
}
