package journal_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"varve.dev/metadata"
	"varve.dev/tiering/journal"
	"varve.dev/tiering/journal/journaltest"
)

const dir = "/j"

// batchOf makes n bytes whose CRC holds, as a producer's batch does.
func batchOf(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	if n >= 21 {
		binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	}
	return b
}

func frameOf(rng *rand.Rand, window int64, n int) journal.Frame {
	return journal.Frame{
		Partition: metadata.PartitionID{Topic: rng.Int32(), Partition: rng.Int32()},
		Session:   rng.Int32(), LeaderEpoch: rng.Int32(), Window: window, Batch: batchOf(rng, n),
	}
}

// chunkOf lays frames out as a window does, in memory that held something else before.
func chunkOf(frames ...journal.Frame) []byte {
	var size int
	for _, f := range frames {
		size += journal.FrameSize(len(f.Batch))
	}
	chunk := bytes.Repeat([]byte{0xa5}, size)
	at := 0
	for _, f := range frames {
		journal.PutFrame(chunk[at:], f)
		at += journal.FrameSize(len(f.Batch))
	}
	return chunk
}

func small(d *journaltest.Disk) journal.Config {
	return journal.Config{MaxBytes: 1 << 20, FileBytes: 2048, Disk: d}
}

// recovered is what a Recover handed back.
type recovered struct {
	j      *journal.Journal
	frames []journal.Frame
	report journal.Report
	err    error
}

func start(t testing.TB, cfg journal.Config, dbSynced int64) recovered {
	t.Helper()
	j, err := journal.Open(dir, cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	r := recovered{j: j}
	r.report, r.err = j.Recover(dbSynced, func(f journal.Frame) error {
		f.Batch = bytes.Clone(f.Batch)
		r.frames = append(r.frames, f)
		return nil
	})
	return r
}

func mustStart(t testing.TB, cfg journal.Config, dbSynced int64) recovered {
	t.Helper()
	r := start(t, cfg, dbSynced)
	if r.err != nil {
		t.Fatalf("recover: %v", r.err)
	}
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(a, b journal.Frame) bool {
	return a.Partition == b.Partition && a.Session == b.Session && a.LeaderEpoch == b.LeaderEpoch && a.Window == b.Window &&
		bytes.Equal(a.Batch, b.Batch)
}

func sameFrames(t testing.TB, got, want []journal.Frame) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("recovered %d frames, want %d", len(got), len(want))
	}
	for i := range got {
		if !equal(got[i], want[i]) {
			t.Fatalf("frame %d: got %v of window %d, want %v of window %d", i, got[i].Partition, got[i].Window, want[i].Partition, want[i].Window)
		}
	}
}

// write writes one window of frames with batches of the given sizes.
func write(t testing.TB, j *journal.Journal, rng *rand.Rand, window int64, sizes ...int) (frames []journal.Frame) {
	t.Helper()
	for _, n := range sizes {
		frames = append(frames, frameOf(rng, window, n))
	}
	must(t, j.Write(window, chunkOf(frames...)))
	return frames
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }

func TestWhatWasSyncedComesBackFromTheRealDisk(t *testing.T) {
	dir := t.TempDir()
	rng := newRand(1)
	open := func() (*journal.Journal, []journal.Frame, journal.Report) {
		j, err := journal.Open(dir, journal.Config{MaxBytes: 4 << 20, FileBytes: 64 << 10})
		must(t, err)
		var frames []journal.Frame
		rep, err := j.Recover(0, func(f journal.Frame) error {
			f.Batch = bytes.Clone(f.Batch)
			frames = append(frames, f)
			return nil
		})
		must(t, err)
		return j, frames, rep
	}
	j, frames, _ := open()
	sameFrames(t, frames, nil)
	id := j.ID()
	var want []journal.Frame
	for w := int64(1); w <= 20; w++ {
		a, b := frameOf(rng, w, 61+rng.IntN(9000)), frameOf(rng, w, rng.IntN(300))
		must(t, j.Write(w, chunkOf(a), nil, chunkOf(b, b)))
		want = append(want, a, b, b)
	}
	must(t, j.Sync())
	synced := j.SyncedPosition()
	must(t, j.Close())
	must(t, j.Close())

	j, frames, rep := open()
	defer j.Close()
	sameFrames(t, frames, want)
	if j.ID() != id || id == (metadata.UUID{}) {
		t.Errorf("id: got %v after %v", j.ID(), id)
	}
	if rep.LastWindow != 20 || rep.Position != synced || j.SyncedPosition() != synced || rep.Bytes != j.Bytes() {
		t.Errorf("report %+v, want window 20, position %d, bytes %d", rep, synced, j.Bytes())
	}
	must(t, j.Release(20))
	if j.Bytes() != 0 {
		t.Errorf("%d bytes after everything was released", j.Bytes())
	}
}

func TestDirectoryHasOneProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	j, err := journal.Open(dir, journal.Config{})
	must(t, err)
	_, err = journal.Open(dir, journal.Config{})
	var locked *journal.LockedError
	if !errors.As(err, &locked) || locked.Dir != dir || locked.PID == "" || !strings.Contains(err.Error(), dir) {
		t.Fatalf("second open: got %v, want a LockedError that names %s", err, dir)
	}
	must(t, j.Close())
	j, err = journal.Open(dir, journal.Config{})
	must(t, err)
	must(t, j.Close())
}

func TestKillAtEveryByte(t *testing.T) {
	rng := newRand(2)
	d := journaltest.New()
	r := mustStart(t, small(d), 0)
	var want []journal.Frame
	for w := int64(1); w <= 3; w++ {
		want = append(want, write(t, r.j, rng, w, 100, 61, 700)...)
	}
	must(t, r.j.Sync())
	want = append(want, write(t, r.j, rng, 4, 300)...) // the next file's header is synced with it
	synced := len(want) - 1
	// Un-synced: window 4 and 5, in two calls and over a file's end.
	var pending []journal.Frame
	for _, n := range []int{400, 20, 0, 333, 61, 90} {
		pending = append(pending, frameOf(rng, 5, n))
	}
	must(t, r.j.Write(5, chunkOf(pending[:3]...), chunkOf(pending[3:]...)))
	want = append(want, pending...)

	total := d.Unsynced()
	for n := 0; n <= total; n++ {
		c := d.Clone()
		c.CrashAfter(n)
		r := mustStart(t, small(c), 0)
		whole, left := synced, n
		for whole < len(want) && left >= journal.FrameSize(len(want[whole].Batch)) {
			left -= journal.FrameSize(len(want[whole].Batch))
			whole++
		}
		// Padding is not needed, so a frame may be whole up to 7 bytes earlier.
		if len(r.frames) == whole+1 && whole < len(want) && left >= journal.HeaderSize+len(want[whole].Batch) {
			whole++
		}
		// A batch that ends in zeros is whole before its last bytes are written: blocks are zeroed ahead.
		if len(r.frames) == whole+1 && equal(r.frames[whole], want[whole]) {
			whole++
		}
		sameFrames(t, r.frames, want[:whole])

		more := write(t, r.j, rng, 6, 80)
		must(t, r.j.Sync())
		position := r.j.SyncedPosition()
		c.CrashAfter(0)
		r = mustStart(t, small(c), position)
		sameFrames(t, r.frames, append(want[:whole:whole], more...))
	}
}

func TestTornSectorsInAnyOrder(t *testing.T) {
	for seed := range uint64(300) {
		rng := newRand(seed)
		d := journaltest.New()
		r := mustStart(t, small(d), 0)
		want := write(t, r.j, rng, 1, 500, 900)
		must(t, r.j.Sync())
		position := r.j.SyncedPosition()
		for w := int64(2); w < 8; w++ {
			want = append(want, write(t, r.j, rng, w, rng.IntN(1500), rng.IntN(200))...)
		}
		d.Crash(rng)
		r = mustStart(t, small(d), position)
		if len(r.frames) < 2 {
			t.Fatalf("seed %d: a synced frame is gone: %d left", seed, len(r.frames))
		}
		sameFrames(t, r.frames, want[:len(r.frames)])
	}
}

func TestDiscardedTailNeverComesBack(t *testing.T) {
	rng := newRand(3)
	d := journaltest.New()
	r := mustStart(t, small(d), 0)
	kept := write(t, r.j, rng, 1, 300)
	must(t, r.j.Sync())
	write(t, r.j, rng, 2, 300)
	write(t, r.j, rng, 3, 300)
	whole := d.Clone()
	whole.CrashAfter(1 << 20)
	var path string
	for _, name := range whole.Names(dir) {
		if strings.HasSuffix(name, ".log") {
			path = name
		}
	}
	good := whole.Bytes(path)

	// Window 2 is torn, window 3 whole: both are cut.
	torn := bytes.Clone(good)
	torn[8192+journal.FrameSize(300)+100] ^= 1
	d.CrashAfter(0)
	d.Put(path, torn)
	r = mustStart(t, small(d), 0)
	sameFrames(t, r.frames, kept)
	if r.report.Torn != int64(journal.FrameSize(300)) {
		t.Errorf("torn: got %d bytes, want window 3's", r.report.Torn)
	}
	more := write(t, r.j, rng, 4, 200)
	must(t, r.j.Sync())
	position := r.j.SyncedPosition()
	d.CrashAfter(0)

	// Even if the disk changes its mind, and though later marks lie behind the torn frame.
	for _, b := range [][]byte{torn, good} {
		d.Put(path, b)
		r = mustStart(t, small(d), position)
		sameFrames(t, r.frames, append(kept[:1:1], more...))
		d.CrashAfter(0)
	}
}

func TestRecycledFilesNeverGiveOldFrames(t *testing.T) {
	rng := newRand(4)
	d := journaltest.New()
	r := mustStart(t, small(d), 0)
	var tail []journal.Frame
	for w := int64(1); w <= 400; w++ {
		frames := write(t, r.j, rng, w, 500) // the same sizes: old frames stand where new ones would
		must(t, r.j.Sync())
		if w%3 == 0 {
			must(t, r.j.Release(w))
			tail = nil
			continue
		}
		tail = append(tail, frames...)
		if w%50 == 0 {
			c := d.Clone()
			c.CrashAfter(0)
			got := mustStart(t, small(c), r.j.SyncedPosition()).frames
			if len(got) < len(tail) || got[0].Window < w-12 {
				t.Fatalf("window %d: recovered %d frames from window %d on, want the last %d", w, len(got), got[0].Window, len(tail))
			}
			sameFrames(t, got[len(got)-len(tail):], tail)
		}
	}
	if s := r.j.Stats(); s.FilesCreated > 4 || s.Lives < 50 {
		t.Errorf("stats %+v: want few files and many lives", s)
	}
}

// damageCase is a journal with three synced frames, each synced alone, and one un-synced behind them.
func damageCase(t *testing.T) (d *journaltest.Disk, path string, want []journal.Frame, position int64) {
	rng := newRand(5)
	d = journaltest.New()
	r := mustStart(t, small(d), 0)
	for w := int64(1); w <= 3; w++ {
		want = append(want, write(t, r.j, rng, w, 101)...)
		must(t, r.j.Sync())
	}
	position = r.j.SyncedPosition()
	want = append(want, write(t, r.j, rng, 4, 101)...)
	d.CrashAfter(1 << 20)
	for _, name := range d.Names(dir) {
		if strings.HasSuffix(name, ".log") {
			path = name
		}
	}
	return d, path, want, position
}

func TestEveryFlippedByte(t *testing.T) {
	d, path, want, position := damageCase(t)
	size := journal.FrameSize(101)
	for at := range 4 * size {
		c := d.Clone()
		b := c.Bytes(path)
		b[8192+at] ^= 1 << (at % 8)
		c.Put(path, b)
		frame, in := at/size, at%size
		r := start(t, small(c), 0)
		padding := in >= journal.HeaderSize+101
		switch {
		case padding:
			if r.err != nil {
				t.Fatalf("byte %d is padding: %v", at, r.err)
			}
			sameFrames(t, r.frames, want)
		case frame == 3, frame == 2 && in < journal.HeaderSize+101:
			// Frame 2 was synced, and frame 3, written after, says so; a flip in frame 3 looks torn.
			if frame == 3 {
				if r.err != nil {
					t.Fatalf("byte %d was never synced: %v", at, r.err)
				}
				sameFrames(t, r.frames, want[:3])
				break
			}
			fallthrough
		default:
			var corrupt *journal.CorruptError
			if !errors.As(r.err, &corrupt) {
				t.Fatalf("byte %d of synced frame %d: got %v, want a CorruptError", at, frame, r.err)
			}
			if corrupt.Position != int64(frame*size) || corrupt.Evidence <= corrupt.Position || corrupt.Journal != r.j.ID() {
				t.Fatalf("byte %d: %+v, want position %d", at, corrupt, frame*size)
			}
			sameFrames(t, r.frames, want[:frame])
		}
	}
	// A frame whose batch is damaged too still testifies.
	all := d.Clone()
	every := all.Bytes(path)
	for frame := 1; frame < 4; frame++ {
		every[8192+frame*size+journal.HeaderSize+50] ^= 1
	}
	all.Put(path, every)
	var damaged *journal.CorruptError
	if r := start(t, small(all), 0); !errors.As(r.err, &damaged) || damaged.Position != int64(size) {
		t.Fatalf("all batches but the first damaged: got %v, want a CorruptError at %d", r.err, size)
	}
	// With no frame behind it, only the session row knows.
	b := d.Bytes(path)
	clear(b[8192+2*size:])
	d.Put(path, b)
	if r := start(t, small(d.Clone()), position-int64(size)); r.err != nil {
		t.Fatalf("the row names what is there: %v", r.err)
	}
	r := start(t, small(d.Clone()), position)
	var corrupt *journal.CorruptError
	if !errors.As(r.err, &corrupt) || corrupt.Evidence != position {
		t.Fatalf("the row names what is gone: got %v, want a CorruptError up to %d", r.err, position)
	}
}

func TestCorruptJournalIsSetAsideWhole(t *testing.T) {
	d, path, _, position := damageCase(t)
	b := d.Bytes(path)
	b[8192+journal.HeaderSize+30] ^= 1
	d.Put(path, b)
	r := start(t, small(d), position)
	var corrupt *journal.CorruptError
	if !errors.As(r.err, &corrupt) || !strings.Contains(corrupt.Error(), corrupt.Quarantine) {
		t.Fatalf("got %v, want a CorruptError", r.err)
	}
	if err := r.j.Write(9); !errors.Is(err, journal.ErrBroken) || !errors.As(err, &corrupt) {
		t.Errorf("write after corruption: %v", err)
	}
	if got := d.Bytes(filepath.Join(corrupt.Quarantine, filepath.Base(path))); !bytes.Equal(got, b) {
		t.Error("the damaged file is not in quarantine, byte for byte")
	}
	old := r.j.ID()
	must(t, r.j.Close())
	r = mustStart(t, small(d), 0)
	if r.j.ID() == old || len(r.frames) != 0 {
		t.Errorf("the next journal: id %v after %v, %d frames", r.j.ID(), old, len(r.frames))
	}
	if q := r.report.Quarantined; len(q) != 1 || q[0] != corrupt.Quarantine {
		t.Errorf("quarantined: %v, want %s", q, corrupt.Quarantine)
	}
}

func TestDamagedHeaders(t *testing.T) {
	d, path, want, _ := damageCase(t)
	for _, off := range []int{0, 4096} {
		c := d.Clone()
		b := c.Bytes(path)
		b[off+50] ^= 1
		c.Put(path, b)
		sameFrames(t, mustStart(t, small(c), 0).frames, want)
	}
	b := d.Bytes(path)
	b[50], b[4096+50] = b[50]^1, b[4096+50]^1
	d.Put(path, b)
	var corrupt *journal.CorruptError
	if r := start(t, small(d), 0); !errors.As(r.err, &corrupt) {
		t.Fatalf("both headers damaged: got %v, want a CorruptError", r.err)
	}
}

func TestNewerFormatIsRefusedAndLeftAlone(t *testing.T) {
	table := crc32.MakeTable(crc32.Castagnoli)
	newerFile := func(b []byte) {
		for _, off := range []int{0, 4096} {
			binary.BigEndian.PutUint16(b[off+10:], 2)
			binary.BigEndian.PutUint32(b[off+84:], crc32.Checksum(b[off:off+84], table))
		}
	}
	otherKind := func(flags byte) func(b []byte) {
		return func(b []byte) {
			f := b[8192+journal.FrameSize(101):]
			f[56], f[57] = 77, flags
			binary.BigEndian.PutUint32(f, crc32.Update(binary.BigEndian.Uint32(b[80:]), table, f[4:journal.HeaderSize+21]))
		}
	}
	for name, change := range map[string]func([]byte){"file": newerFile, "critical frame": otherKind(0x80), "critical flag": otherKind(0xc0)} {
		d, path, _, _ := damageCase(t)
		b := d.Bytes(path)
		change(b)
		d.Put(path, b)
		r := start(t, small(d), 0)
		if !errors.Is(r.err, journal.ErrFormat) {
			t.Fatalf("%s: got %v, want ErrFormat", name, r.err)
		}
		if err := r.j.Write(9); err == nil {
			t.Fatalf("%s: a journal that was not recovered takes writes", name)
		}
		must(t, r.j.Close())
		if !bytes.Equal(d.Bytes(path), b) {
			t.Fatalf("%s: the file was changed", name)
		}
	}
	d, path, want, _ := damageCase(t)
	b := d.Bytes(path)
	otherKind(0)(b)
	d.Put(path, b)
	sameFrames(t, mustStart(t, small(d), 0).frames, append(want[:1:1], want[2:]...))
}

func TestSyncErrorIsTheLastWord(t *testing.T) {
	rng := newRand(6)
	d := journaltest.New()
	r := mustStart(t, small(d), 0)
	want := write(t, r.j, rng, 1, 100)
	must(t, r.j.Sync())
	position := r.j.SyncedPosition()
	write(t, r.j, rng, 2, 100)
	d.Fail(nil, func(string) error { return syscall.EIO })
	if err := r.j.Sync(); !errors.Is(err, journal.ErrBroken) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	d.Fail(nil, nil)
	for name, err := range map[string]error{"sync": r.j.Sync(), "write": r.j.Write(3), "release": r.j.Release(1)} {
		if !errors.Is(err, journal.ErrBroken) || !errors.Is(err, syscall.EIO) {
			t.Errorf("%s after a failed sync: %v", name, err)
		}
	}
	if r.j.SyncedPosition() != position {
		t.Errorf("synced position moved to %d", r.j.SyncedPosition())
	}
	// The process ends, the machine lives: the page cache still shows window 2, the disk does not have it.
	must(t, r.j.Close())
	r = mustStart(t, small(d), position)
	sameFrames(t, r.frames, want)
}

func TestWriteErrorIsTheLastWord(t *testing.T) {
	d := journaltest.New()
	r := mustStart(t, small(d), 0)
	write(t, r.j, newRand(7), 1, 100)
	d.Fail(func(string) error { return syscall.EIO }, nil)
	chunk := chunkOf(frameOf(newRand(8), 2, 50))
	if err := r.j.Write(2, chunk); !errors.Is(err, journal.ErrBroken) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("write: %v", err)
	}
	d.Fail(nil, nil)
	if err := r.j.Sync(); !errors.Is(err, journal.ErrBroken) {
		t.Fatalf("sync after a failed write: %v", err)
	}
}

func TestFullJournalWritesNothingAndGoesOnAfterRelease(t *testing.T) {
	full := map[string]func() (*journaltest.Disk, journal.Config){
		"MaxBytes": func() (*journaltest.Disk, journal.Config) {
			d := journaltest.New()
			return d, journal.Config{MaxBytes: 4 * (8192 + 2048), FileBytes: 2048, Disk: d}
		},
		"the disk": func() (*journaltest.Disk, journal.Config) {
			d := journaltest.New()
			d.SetCapacity(4*(8192+2048) + 300)
			return d, small(d)
		},
	}
	for name, make := range full {
		rng := newRand(9)
		d, cfg := make()
		r := mustStart(t, cfg, 0)
		var want []journal.Frame
		var err error
		w := int64(0)
		for err == nil {
			w++
			room := r.j.Room()
			frame := frameOf(rng, w, 900)
			if err = r.j.Write(w, chunkOf(frame)); err == nil {
				want = append(want, frame)
			} else if room > 0 && name == "MaxBytes" {
				t.Errorf("room was %d and a frame was refused", room)
			}
		}
		if room := r.j.Room(); room > 0 {
			t.Errorf("%s: full, and room is %d", name, room)
		}
		if !errors.Is(err, journal.ErrFull) || errors.Is(err, journal.ErrBroken) {
			t.Fatalf("%s: got %v, want ErrFull", name, err)
		}
		if len(want) != 8 {
			t.Errorf("%s: took %d frames, want 8: two in each of four files", name, len(want))
		}
		// A frame that spans what is left and a file that cannot be had leaves no trace.
		if err := r.j.Write(w, chunkOf(frameOf(rng, w, 10), frameOf(rng, w, 900))); !errors.Is(err, journal.ErrFull) {
			t.Fatalf("%s: got %v, want ErrFull", name, err)
		}
		must(t, r.j.Sync())
		c := d.Clone()
		c.CrashAfter(0)
		sameFrames(t, mustStart(t, journal.Config{MaxBytes: cfg.MaxBytes, FileBytes: cfg.FileBytes, Disk: c}, r.j.SyncedPosition()).frames, want)

		must(t, r.j.Release(4))
		want = append(want[4:], write(t, r.j, rng, w, 900, 900)...)
		must(t, r.j.Sync())
		position := r.j.SyncedPosition()
		d.CrashAfter(0)
		got := mustStart(t, cfg, position).frames
		sameFrames(t, got[len(got)-len(want):], want)
	}
}

// measured is a disk that says how much is free.
type measured struct {
	*journaltest.Disk
	free int64
}

func (m *measured) Free(string) (int64, error) { return m.free, nil }

func TestTheJournalLeavesRoomForOthers(t *testing.T) {
	d := &measured{journaltest.New(), 0}
	const file = 8192 + 2048
	cfg := small(d.Disk)
	cfg.Disk = d
	r := mustStart(t, cfg, 0)
	rng := newRand(15)
	frame := frameOf(rng, 1, 900)
	d.free = 2*file - 1
	if err := r.j.Write(1, chunkOf(frame)); !errors.Is(err, journal.ErrFull) {
		t.Fatalf("with %d bytes free: %v, want ErrFull", d.free, err)
	}
	if s := r.j.Stats(); s.DiskBytes != 0 || r.j.Room() > 0 {
		t.Errorf("%d bytes are on disk, room is %d; want none", s.DiskBytes, r.j.Room())
	}
	d.free = 2 * file
	must(t, r.j.Write(1, chunkOf(frame)))
}

func TestFrameLargerThanAFile(t *testing.T) {
	rng := newRand(10)
	d := journaltest.New()
	r := mustStart(t, small(d), 0)
	want := write(t, r.j, rng, 1, 100, 50_000, 100, 3000, 61)
	must(t, r.j.Sync())
	position := r.j.SyncedPosition()
	d.CrashAfter(0)
	r = mustStart(t, small(d), position)
	sameFrames(t, r.frames, want)
	must(t, r.j.Release(1))
	tight := journal.Config{MaxBytes: r.j.Stats().DiskBytes + 40_000, FileBytes: 2048, Disk: d}
	must(t, r.j.Close())
	r = mustStart(t, tight, 0)
	must(t, r.j.Release(r.report.LastWindow))
	want = write(t, r.j, rng, 2, 80_000) // no room for another file of that size: one is made larger
	must(t, r.j.Sync())
	d.CrashAfter(0)
	got := mustStart(t, tight, 0).frames
	sameFrames(t, got[len(got)-1:], want)
}

func TestWindowsAndFramesAreChecked(t *testing.T) {
	d := journaltest.New()
	r := mustStart(t, small(d), 0)
	rng := newRand(11)
	write(t, r.j, rng, 5, 10)
	write(t, r.j, rng, 5, 10)
	whole := chunkOf(frameOf(rng, 6, 100))
	for name, err := range map[string]error{
		"lower window":       r.j.Write(4, chunkOf(frameOf(rng, 4, 10))),
		"frame of another":   r.j.Write(6, chunkOf(frameOf(rng, 7, 10))),
		"cut header":         r.j.Write(6, whole[:60]),
		"cut frame":          r.j.Write(6, whole[:100]),
		"not a frame":        r.j.Write(6, make([]byte, 128)),
		"good then cut":      r.j.Write(6, whole, whole[:80]),
		"second Recover":     func() error { _, err := r.j.Recover(0, nil); return err }(),
		"too small MaxBytes": func() error { _, err := journal.Open(dir, journal.Config{MaxBytes: 10, Disk: d}); return err }(),
	} {
		if err == nil || errors.Is(err, journal.ErrBroken) {
			t.Errorf("%s: got %v, want an error that leaves the journal whole", name, err)
		}
	}
	must(t, r.j.Write(6, whole))
}

func TestRunKeepsAFileAheadAndGivesSurplusBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := newRand(12)
		d := journaltest.New()
		r := mustStart(t, small(d), 0)
		ctx, stop := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() {
			if err := r.j.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		if n := r.j.Stats().FilesCreated; n != 0 {
			t.Errorf("%d files before the first write", n)
		}
		for w := int64(1); w <= 30; w++ {
			write(t, r.j, rng, w, 1500)
			synctest.Wait()
			if n := r.j.Stats().FilesCreated; n != w+1 {
				t.Fatalf("%d files after %d writes of one file each, want one ahead", n, w)
			}
		}
		must(t, r.j.Sync())
		must(t, r.j.Release(30))
		for w := int64(31); w <= 40; w++ { // headers that call the old frames released
			write(t, r.j, rng, w, 1500)
			must(t, r.j.Sync())
			must(t, r.j.Release(w))
			synctest.Wait()
		}
		if n := len(d.Names(dir + "/live/")); n > 8 {
			t.Errorf("%d files are left, want a handful", n)
		}
		// A full disk is tried again each second.
		d.SetCapacity(1)
		for w := int64(41); w <= 47; w++ {
			frame := frameOf(rng, w, 1500)
			if err := r.j.Write(w, chunkOf(frame)); err != nil && !errors.Is(err, journal.ErrFull) {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if room := r.j.Room(); room > 0 {
			t.Errorf("room is %d on a full disk", room)
		}
		d.SetCapacity(0)
		time.Sleep(2 * time.Second) // virtual
		synctest.Wait()
		if room := r.j.Room(); room <= 0 {
			t.Errorf("room is %d after the disk has space again", room)
		}
		stop()
		done.Wait()
	})
}

func TestWriteAndSyncRunTogether(t *testing.T) {
	dir := t.TempDir()
	j, err := journal.Open(dir, journal.Config{MaxBytes: 8 << 20, FileBytes: 32 << 10})
	must(t, err)
	_, err = j.Recover(0, nil)
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var background, writers sync.WaitGroup
	background.Go(func() { _ = j.Run(ctx) })
	for range 2 {
		writers.Go(func() {
			for range 50 {
				if err := j.Sync(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	rng := newRand(13)
	var want []journal.Frame
	for w := int64(1); w <= 200; w++ {
		want = append(want, write(t, j, rng, w, rng.IntN(4000))...)
		if w > 100 && w <= 150 {
			must(t, j.Release(w-100))
		}
	}
	writers.Wait()
	must(t, j.Sync())
	stop()
	background.Wait()
	must(t, j.Close())

	j, err = journal.Open(dir, journal.Config{MaxBytes: 8 << 20, FileBytes: 32 << 10})
	must(t, err)
	defer j.Close()
	var got []journal.Frame
	_, err = j.Recover(0, func(f journal.Frame) error {
		f.Batch = bytes.Clone(f.Batch)
		got = append(got, f)
		return nil
	})
	must(t, err)
	if len(got) < 150 {
		t.Fatalf("recovered %d frames, want at least the last 150", len(got))
	}
	sameFrames(t, got, want[len(want)-len(got):])
}

// TestModel drives random sequences of writes, syncs, releases, crashes and recoveries against a list of frames.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type entry struct {
			frame            journal.Frame
			synced, released bool
		}
		rng := newRand(rapid.Uint64().Draw(rt, "seed"))
		d := journaltest.New()
		cfg := journal.Config{MaxBytes: 12 * (8192 + 1024), FileBytes: 1024, Disk: d}
		var log []entry
		var row, window int64 // row: what the session row names as synced
		j := mustStart(t, cfg, 0).j
		restart := func() {
			r := start(t, cfg, row)
			if r.err != nil {
				rt.Fatalf("recover: %v", r.err)
			}
			// What came back is [a, b) of the log.
			a := 0
			if len(r.frames) > 0 {
				for a < len(log) && !equal(log[a].frame, r.frames[0]) {
					a++
				}
			} else {
				a = len(log)
				for a > 0 && !log[a-1].released { // nothing came back: no frame may have been needed
					a--
				}
			}
			b := a + len(r.frames)
			if b > len(log) {
				rt.Fatalf("recovered %d frames, the first is number %d of %d", len(r.frames), a, len(log))
			}
			for i, f := range r.frames {
				if !equal(f, log[a+i].frame) {
					rt.Fatalf("frame %d differs", a+i)
				}
			}
			for i, e := range log {
				if e.synced && !e.released && (i < a || i >= b) {
					rt.Fatalf("frame %d (window %d) was synced and not released, recovered [%d, %d) of %d", i, e.frame.Window, a, b, len(log))
				}
				if !e.released && i < a {
					rt.Fatalf("frame %d is missing before what was recovered, [%d, %d)", i, a, b)
				}
			}
			log = log[a:b:b]
			for i := range log {
				log[i].synced = true
			}
			window = max(window, r.report.LastWindow)
			j = r.j
		}
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				window += rapid.Int64Range(0, 2).Draw(rt, "step")
				var chunks [][]byte
				var frames []journal.Frame
				for range rapid.IntRange(1, 3).Draw(rt, "chunks") {
					var chunk []journal.Frame
					for range rapid.IntRange(1, 3).Draw(rt, "frames") {
						chunk = append(chunk, frameOf(rng, window, rapid.SampledFrom([]int{0, 5, 21, 61, 100, 400, 900, 1500}).Draw(rt, "bytes")))
					}
					chunks = append(chunks, chunkOf(chunk...))
					frames = append(frames, chunk...)
				}
				err := j.Write(window, chunks...)
				if errors.Is(err, journal.ErrFull) {
					return
				}
				if err != nil {
					rt.Fatal(err)
				}
				for _, f := range frames {
					log = append(log, entry{frame: f})
				}
			},
			"sync": func(rt *rapid.T) {
				if err := j.Sync(); err != nil {
					rt.Fatal(err)
				}
				for i := range log {
					log[i].synced = true
				}
			},
			"release": func(rt *rapid.T) {
				w := window - rapid.Int64Range(0, 6).Draw(rt, "back")
				if err := j.Release(w); err != nil {
					rt.Fatal(err)
				}
				for i := range log {
					log[i].released = log[i].released || log[i].frame.Window <= w
				}
				row = j.SyncedPosition() // the commit that allows the release names it
			},
			"ahead": func(rt *rapid.T) {
				if err := journal.Ahead(j); err != nil {
					rt.Fatal(err)
				}
			},
			"crash": func(rt *rapid.T) {
				d.Crash(rng)
				restart()
			},
			"restart": func(rt *rapid.T) {
				if err := j.Close(); err != nil {
					rt.Fatal(err)
				}
				restart()
			},
			"": func(rt *rapid.T) {
				var want int64
				for _, e := range log {
					if !e.released {
						want += int64(journal.FrameSize(len(e.frame.Batch)))
					}
				}
				if got := j.Bytes(); got < want {
					rt.Fatalf("%d bytes are not released, want at least %d", got, want)
				}
			},
		})
	})
}

// crashed is the disk of a journal that held three windows when its process died, and the names of its files.
func crashed(tb testing.TB, seed uint64) (d *journaltest.Disk, logs []string) {
	tb.Helper()
	rng := newRand(seed)
	d = journaltest.New()
	r := mustStart(tb, small(d), 0)
	for w := int64(1); w <= 3; w++ {
		write(tb, r.j, rng, w, 61, 700)
	}
	must(tb, r.j.Sync())
	d.CrashAfter(0)
	for _, name := range d.Names(dir) {
		if strings.HasSuffix(name, ".log") {
			logs = append(logs, name)
		}
	}
	return d, logs
}

// FuzzRecover gives Recover arbitrary bytes as its files, some behind a valid header.
func FuzzRecover(f *testing.F) {
	d, logs := crashed(f, 14)
	first := d.Bytes(logs[0])
	f.Add([]byte{}, 0, int64(0))
	f.Add(first, 0, int64(0))
	f.Add(first[8192:], 8192, int64(1))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, 8192+4, int64(5))
	f.Add([]byte{0xff, 0xff}, 16, int64(1<<40))
	f.Fuzz(func(t *testing.T, b []byte, at int, row int64) {
		c := d.Clone()
		file := c.Bytes(logs[0])
		if at < 0 || at > len(file) || len(b) > 1<<16 {
			return
		}
		if at == 0 {
			file = b
		} else {
			copy(file[at:], b)
		}
		c.Put(logs[0], file)
		r := start(t, small(c), row)
		if r.err != nil {
			return
		}
		write(t, r.j, newRand(15), r.report.LastWindow+1, 100)
		must(t, r.j.Sync())
		position := r.j.SyncedPosition()
		c.CrashAfter(0)
		again := mustStart(t, small(c), position)
		if got, want := len(again.frames), len(r.frames)+1; got != want {
			t.Fatalf("the second recovery found %d frames, want %d", got, want)
		}
	})
}

// BenchmarkGroup writes and syncs groups on the real disk.
func BenchmarkGroup(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20, 8 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			j, err := journal.Open(b.TempDir(), journal.Config{MaxBytes: 1 << 30, FileBytes: 64 << 20})
			must(b, err)
			defer j.Close()
			_, err = j.Recover(0, nil)
			must(b, err)
			rng := newRand(16)
			var frames []journal.Frame
			for n := size; n > 0; n -= 16 << 10 {
				frames = append(frames, frameOf(rng, 0, min(n, 16<<10)-journal.HeaderSize))
			}
			var chunks [][]byte
			for len(frames) > 0 {
				n := min(len(frames), 64)
				chunks = append(chunks, chunkOf(frames[:n]...))
				frames = frames[n:]
			}
			put := func(w int64) {
				must(b, j.Write(w, chunks...))
				must(b, j.Sync())
				must(b, j.Release(w))
			}
			for range 2*(64<<20)/size + 2 { // create and zero the files
				if err := j.Write(0, chunks...); err != nil {
					b.Fatal(err)
				}
				must(b, j.Release(0))
			}
			must(b, j.Sync())
			before := j.Stats()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				put(0)
			}
			after := j.Stats()
			b.ReportMetric(float64(after.Syncs-before.Syncs)/float64(b.N), "fdatasyncs/op")
			b.ReportMetric(float64(after.Writes-before.Writes)/float64(b.N), "writes/op")
		})
	}
}
