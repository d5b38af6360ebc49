package cache_test

import (
	"bytes"
	"context"
	"errors"
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

	"varve.dev/objectstore"
	"varve.dev/objectstore/cache"
)

const fileBytes = 5000 + directoryBytes

// disk is as large as the test says; others take some of it, and the copies in dir the rest.
type disk struct {
	t            testing.TB
	dir          string
	size, others atomic.Int64
	err          error
	asked        atomic.Int64
	before, then func() // happens once while it is asked
}

func newDisk(t testing.TB, size int64) *disk {
	d := &disk{t: t, dir: t.TempDir()}
	d.size.Store(size)
	return d
}

func (d *disk) free(dir string) (int64, error) {
	if dir != d.dir {
		d.t.Errorf("asked of %q, want %q", dir, d.dir)
	}
	d.asked.Add(1)
	before, then := d.before, d.then
	d.before, d.then = nil, nil
	if before != nil {
		before()
	}
	_, taken := files(d.t, d.dir)
	if then != nil {
		then()
	}
	return d.size.Load() - d.others.Load() - taken, d.err
}

// tightWorld keeps six copies on a disk that has room for them and for leave: 0 and 1 by last use, 0 was used last; 2 has
// passed its time when an hour has; the rest is wanted ever longer. The seventh object is not kept.
func tightWorld(t *testing.T, d *disk, leave int64, log *bytes.Buffer) *world {
	t.Helper()
	w := newWorld(t, 7, cache.Config{Dir: d.dir, DiskBytes: 1 << 20, FreeBytes: leave, Free: d.free, Logger: slog.New(slog.NewTextHandler(log, nil))})
	for i, hours := range []int{0, 0, 1, 2, 3, 4} {
		w.keep(i, hours)
	}
	w.read(w.objects[0], 0, 10)
	w.has(0, 1, 2, 3, 4, 5)
	return w
}

func (w *world) keep(i, hours int) {
	w.t.Helper()
	until := time.Now().Add(time.Duration(hours) * time.Hour)
	must(w.t, w.Keep(w.objects[i].Key, objectstore.NewBytes(w.objects[i].data), until))
}

// has fails unless these objects have copies, looking at the folder: to read them is to use them.
func (w *world) has(want ...int) {
	w.t.Helper()
	if s := w.Stats(); s.Files != len(want) {
		w.t.Errorf("%d copies, want those of %v", s.Files, want)
	}
	names, _ := files(w.t, w.dir)
	for i, o := range w.objects {
		name := strings.ReplaceAll(o.Key, "/", "+") + "+object"
		if got := slices.Contains(names, name); got != slices.Contains(want, i) {
			w.t.Errorf("copy of object %d: %v, want those of %v", i, got, want)
		}
	}
}

// running runs the cache in virtual time until the test ends.
func (w *world) running(test func()) {
	ctx, stop := context.WithCancel(w.t.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = w.Run(ctx) })
	test()
	stop()
	run.Wait()
	w.Close()
}

func (w *world) soon() {
	time.Sleep(cache.RoomPeriod) // virtual
	synctest.Wait()
}

func TestCopiesLeaveRoomOnTheirDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const leave = 3 * fileBytes
		var log bytes.Buffer
		d := newDisk(t, leave+6*fileBytes)
		w := tightWorld(t, d, leave, &log)
		if s := w.Stats(); s.FilesEvicted != 0 || log.Len() != 0 {
			t.Errorf("there is room for six: %+v\n%s", s, log.String())
		}
		w.keep(6, 5)
		w.has(0, 2, 3, 4, 5, 6) // 1 was used before 0
		w.keep(1, 5)
		w.has(1, 2, 3, 4, 5, 6)
		w.keep(0, 0) // passed its time: used last, but what is wanted is wanted more
		w.has(1, 2, 3, 4, 5, 6)
		d.size.Add(-1)
		w.keep(0, 6)
		w.has(0, 1, 4, 5, 6) // one goes for it, and one for the byte
		d.size.Store(leave + fileBytes - 1)
		w.keep(2, 9) // there is no room for any
		w.has()
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%d lines:\n%s", n, log.String())
		}
		d.size.Store(leave + fileBytes)
		w.keep(2, 9)
		w.has(2)
		must(t, w.Keep("large", objectstore.NewBytes(make([]byte, 2*fileBytes)), time.Now().Add(10*time.Hour)))
		w.has(2) // nobody goes for what has no room all the same
		w.Close()
	})
}

func TestCopiesGoWhenOthersTakeTheirRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const leave, room = 3 * fileBytes, 10 * fileBytes
		var log bytes.Buffer
		d := newDisk(t, leave+room)
		w := tightWorld(t, d, leave, &log)
		w.running(func() {
			for _, step := range []struct {
				others int64 // that is left for copies
				want   []int
			}{
				{6 * fileBytes, []int{0, 1, 2, 3, 4, 5}},
				{6*fileBytes - 1, []int{0, 2, 3, 4, 5}},
				{5 * fileBytes, []int{0, 2, 3, 4, 5}},
				{3*fileBytes + 5, []int{3, 4, 5}},
				{5 * fileBytes, []int{3, 4, 5}},
				{1 * fileBytes, []int{5}},
				{-leave, nil},
				{-2 * leave, nil},
			} {
				d.others.Store(room - step.others)
				if step.want == nil {
					time.Sleep(2 * time.Hour) // what has passed its time goes before what was used, but nothing is left
				}
				w.soon()
				w.has(step.want...)
			}
			if s := w.Stats(); s.FilesEvicted != 6 || s.DiskBytes != 0 {
				t.Errorf("stats: %+v", s)
			}
			if n := strings.Count(log.String(), "gives up copies"); n != 1 || strings.Count(log.String(), "\n") != 1 {
				t.Errorf("said %d times:\n%s", n, log.String())
			}
			d.others.Store(0)
			w.soon()
			w.keep(6, 1)
			d.others.Store(room)
			w.soon()
			w.has()
			if n := strings.Count(log.String(), "gives up copies"); n != 2 {
				t.Errorf("said %d times, it came about twice:\n%s", n, log.String())
			}
		})
	})
}

func TestTheDiskIsNotAskedAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(t, 0)
		w := newWorld(t, 1, cache.Config{Dir: d.dir, DiskBytes: 1 << 20, FreeBytes: 1, Free: d.free})
		w.running(func() {
			before := d.asked.Load()
			time.Sleep(time.Hour)
			synctest.Wait()
			if got, want := d.asked.Load()-before, int64(time.Hour/cache.RoomPeriod); got != want {
				t.Errorf("asked %d times in an hour, want %d", got, want)
			}
		})
	})
}

func TestCopiesThatLeaveNothingAskNobody(t *testing.T) {
	for name, cfg := range map[string]cache.Config{
		"no room to leave": {DiskBytes: 1 << 20},
		"no copies":        {FreeBytes: 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDisk(t, 0)
				cfg.Dir, cfg.Free = d.dir, d.free
				w := newWorld(t, 2, cfg)
				w.running(func() {
					w.keep(0, 1)
					w.keep(1, 1)
					w.soon()
				})
				if s := w.Stats(); d.asked.Load() != 0 || s.Files != map[bool]int{true: 2, false: 0}[cfg.DiskBytes > 0] {
					t.Errorf("asked %d times, %+v", d.asked.Load(), s)
				}
			})
		})
	}
}

func TestADiskThatDoesNotTellHasNoBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		d := newDisk(t, 0)
		d.err = errors.New("no such call")
		w := tightWorld(t, d, 3*fileBytes, &log)
		w.running(func() {
			w.keep(6, 5)
			w.soon()
			w.soon()
			w.has(0, 1, 2, 3, 4, 5, 6)
			if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "no such call") {
				t.Errorf("log:\n%s", log.String())
			}
		})
		d.err = nil
		cache.MakeRoom(w.Cache)
		w.has()
	})
}

func TestFoundCopiesLeaveRoomToo(t *testing.T) {
	var log bytes.Buffer
	d := newDisk(t, 9*fileBytes)
	w := tightWorld(t, d, 3*fileBytes, &log)
	d.others.Store(4 * fileBytes)
	w.reopen(cache.Config{Dir: d.dir, DiskBytes: 1 << 20, FreeBytes: 3 * fileBytes, Free: d.free})
	w.has(4, 5)
}

// What comes and goes while the disk is asked takes nothing from other copies.
func TestCopiesComeAndGoWhileTheDiskIsAsked(t *testing.T) {
	var log bytes.Buffer
	d := newDisk(t, 9*fileBytes)
	w := tightWorld(t, d, 3*fileBytes, &log)
	look := func(want ...int) {
		t.Helper()
		cache.MakeRoom(w.Cache)
		w.has(want...)
	}
	remove := cache.DropSlowly(w.Cache, w.objects[0].Key, w.objects[1].Key, "unknown")
	d.others.Store(1) // more than there is, until these have gone
	cache.MakeRoom(w.Cache)
	remove()
	look(2, 3, 4, 5)
	d.others.Store(0)
	w.keep(0, 5)
	w.keep(1, 5)
	d.others.Store(1)
	d.then = func() { w.Drop(w.objects[0].Key) }
	look(1, 2, 3, 4, 5)
	d.others.Store(0)
	d.before = func() { w.keep(0, 5) }
	look(0, 1, 2, 3, 4, 5)
	must(t, os.WriteFile(filepath.Join(d.dir, "wal+02+2+object"), []byte("x"), 0o600)) // is read, and found bad
	w.read(w.objects[2], 0, 10)
	look(0, 1, 3, 4, 5)
	must(t, os.Remove(filepath.Join(d.dir, "wal+03+3+object")))
	w.read(w.objects[3], 0, 10)
	look(0, 1, 4, 5)
	must(t, w.Evict())
	w.keep(0, 5)
	d.others.Store(5 * fileBytes)
	look(0)
	d.others.Add(1)
	look()
}

func TestThereIsNoRoomForAnImageThatWouldHaveToGo(t *testing.T) {
	d := newDisk(t, 2*fileBytes)
	w := newWorld(t, 4, cache.Config{Dir: d.dir, MemoryBytes: fileBytes, DiskBytes: 1 << 20, FreeBytes: fileBytes, Free: d.free})
	w.addImage(w.objects[0])
	w.addImage(w.objects[1])
	cache.Spill(w.Cache)
	w.has(0)
	d.others.Store(1)
	cache.MakeRoom(w.Cache)
	w.addImage(w.objects[2])
	if s := w.Stats(); s.Images != 1 || s.ImageBytes != fileBytes || s.ImagesDropped != 1 || s.Files != 0 {
		t.Errorf("an image waits for a disk that has no room: %+v", s)
	}
	d.others.Store(0)
	cache.MakeRoom(w.Cache)
	w.addImage(w.objects[3])
	cache.Spill(w.Cache)
	w.has(2)
}

func TestReadersGoOnWhileCopiesGo(t *testing.T) {
	d := newDisk(t, 20*fileBytes)
	w := newWorld(t, 8, cache.Config{Dir: d.dir, DiskBytes: 1 << 20, ColdBytes: 1 << 20, FreeBytes: fileBytes, Free: d.free})
	for i := range w.objects {
		w.keep(i, i)
	}
	var readers sync.WaitGroup
	started := make(chan struct{}, 4)
	stop := make(chan struct{})
	for i := range uint64(4) {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(i, 5))
			for n := 0; ; n++ {
				o := w.objects[rng.IntN(len(w.objects))]
				off := rng.Int64N(o.Length)
				v, err := w.View(t.Context(), o.Object, off, o.Length-off)
				if err != nil {
					t.Error(err)
				} else if !bytes.Equal(slices.Concat(v.Slices...), o.data[off:]) {
					t.Error("other bytes")
				}
				v.Release()
				if n == 0 {
					started <- struct{}{}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 4 {
		<-started
	}
	for round := range 20 {
		for left := int64(8); left >= 0; left-- {
			d.others.Store((19 - left) * fileBytes)
			cache.MakeRoom(w.Cache)
			if s := w.Stats(); int64(s.Files) > left {
				t.Errorf("round %d: %d copies, room for %d", round, s.Files, left)
			}
		}
		d.others.Store(0)
		for i := range w.objects {
			w.keep(i, i)
		}
	}
	close(stop)
	readers.Wait()
	if s := w.Stats(); s.BadFiles != 0 || s.BadGets != 0 || s.FilesEvicted < 8*20 || s.DiskHits == 0 {
		t.Errorf("stats: %+v", s)
	}
}

func TestTheFilesystemTells(t *testing.T) {
	dir := t.TempDir()
	free, err := cache.Statfs(dir)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("SKIP this filesystem does not tell what is free: " + err.Error())
	}
	if err != nil || free <= 0 {
		t.Fatalf("%d bytes are free: %v", free, err)
	}
	if _, err := cache.Statfs(dir + "/none"); err == nil {
		t.Error("a folder that does not exist has room")
	}
	w := newWorld(t, 1, cache.Config{Dir: dir, DiskBytes: 1 << 20, FreeBytes: 1 << 60})
	w.keep(0, 1)
	if names, _ := files(t, dir); len(names) != 0 {
		t.Errorf("copies on a disk that has no exbibyte: %v", names)
	}
}
