package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"varve.dev/metadata"
)

var (
	// ErrFull means that nothing was written, because MaxBytes would be passed or the disk has no room for another file.
	// Release makes room.
	ErrFull = errors.New("journal is full")
	// ErrBroken means that an earlier write or sync failed, or that corruption was found: this Journal is of no use any
	// more. What the cause was is wrapped.
	ErrBroken = errors.New("journal is broken")
	// ErrFormat means that a newer version wrote the journal. Nothing was changed.
	ErrFormat = errors.New("journal format is not known")
)

const (
	defaultMaxBytes  = 4 << 30
	defaultFileBytes = 64 << 20
	// maxIdle is how many files without needed frames are kept for reuse; the rest is given back to the disk.
	maxIdle = 4
	// fullRetry is how often Run tries again to create a file on a full disk.
	fullRetry = time.Second
)

// Config is plain values; the zero value of a field means its default.
type Config struct {
	// MaxBytes bounds the files on disk, headers included. Default 4 GiB: minutes of an outage of the bucket at the
	// rate of one disk. At least two files.
	MaxBytes int64
	// FileBytes is the room for frames in one file. Default 64 MiB, or an eighth of MaxBytes if that is less: small
	// enough to be zeroed in a tenth of a second, large enough that a new life's two syncs are lost in the noise. A
	// larger frame gets a larger file.
	FileBytes int64
	// Disk is nil for the real one.
	Disk Disk
	// Random feeds salts and the uuid; nil is crypto/rand.
	Random io.Reader
	// Logger is nil for silence.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultMaxBytes
	}
	if c.FileBytes == 0 {
		c.FileBytes = min(defaultFileBytes, c.MaxBytes/8)
	}
	if c.FileBytes < HeaderSize || c.FileBytes > maxFile {
		return c, fmt.Errorf("journal: FileBytes is %d, want %d to %d", c.FileBytes, HeaderSize, int64(maxFile))
	}
	c.FileBytes = (c.FileBytes + 7) &^ 7
	if least := 2 * (dataStart + c.FileBytes); c.MaxBytes < least {
		return c, fmt.Errorf("journal: MaxBytes is %d, want at least %d, two files of %d and their headers", c.MaxBytes, least, c.FileBytes)
	}
	if c.Disk == nil {
		c.Disk = osDisk{}
	}
	if c.Random == nil {
		c.Random = rand.Reader
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// windowStart remembers where a window's frames begin, until it is released.
type windowStart struct{ window, position int64 }

// Stats counts what the journal cost since Open.
type Stats struct {
	Writes, WrittenBytes, Syncs int64
	FilesCreated, Lives         int64
	DiskBytes                   int64 // files on disk now
}

// Journal is one directory of files. Write and Sync may run at the same time: the next group forms while the last one is
// on its way to the disk. Order of the turns: writing, preparing, syncing; each is a channel of one, so that no mutex is
// held across I/O. mu guards the fields below it and is never held across I/O.
type Journal struct {
	dir, live string
	cfg       Config
	id        metadata.UUID
	lock      io.Closer

	writing   chan struct{} // Write, Recover, Close
	preparing chan struct{} // new lives: Write and Run
	syncing   chan struct{} // Sync, and the removal of files
	wake      chan struct{} // for Run

	mu        sync.Mutex
	tried     bool // Recover was called
	recovered bool // and succeeded
	closed    bool
	broken    error

	files      []*file // all open ones
	used       []*file // hold frames that are not released, oldest life first; without active
	active     *file   // takes frames; nil before the first Write
	ready      []*file // a new life has begun, no frame yet; in order of life
	idle       []*file // nothing in them is needed
	dirty      []*file // written since the last sync
	diskBytes  int64
	diskFull   bool
	nextName   int
	nextLife   int64
	nextStart  int64
	cutFrom    int64
	cutTo      int64
	durableRel int64 // the highest released position in a synced header

	head       int64 // position behind the last frame
	synced     int64
	released   int64 // every frame below is committed
	unreleased int64 // bytes of frames that are not
	lastWindow int64
	windows    []windowStart
	stats      Stats
}

// Open locks the directory for the life of the process, or fails with a *LockedError, and makes a new journal with a new
// uuid where there is none. Nothing can be written before Recover.
func Open(dir string, cfg Config) (*Journal, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	j := &Journal{
		dir: dir, live: filepath.Join(dir, liveDir), cfg: cfg,
		writing: make(chan struct{}, 1), preparing: make(chan struct{}, 1), syncing: make(chan struct{}, 1),
		wake: make(chan struct{}, 1), nextLife: 1, nextName: 1,
	}
	if err := j.makeDir(); err != nil {
		return nil, fmt.Errorf("open journal %s: %w", dir, err)
	}
	if j.lock, err = cfg.Disk.Lock(dir); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := j.openLive(); err != nil {
		j.closeFiles()
		return nil, errors.Join(fmt.Errorf("open journal %s: %w", dir, err), j.lock.Close())
	}
	return j, nil
}

// ID is the uuid of the journal in this directory.
func (j *Journal) ID() metadata.UUID { return j.id }

// SyncedPosition is the end of what is known to be on disk.
func (j *Journal) SyncedPosition() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.synced
}

// Bytes is the size of all frames that are written and not released.
func (j *Journal) Bytes() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.unreleased
}

// Room is the number of bytes that may still be accepted: what fits into the files there are, and into those that
// MaxBytes and the disk allow, but for a reserve of one file, which is for what has been accepted already. At zero or
// below, stop accepting. Each file may lose up to one frame's size at its end.
func (j *Journal) Room() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	room := -j.cfg.FileBytes
	if j.active != nil {
		room += j.active.limit() - j.active.end
	}
	for _, f := range slices.Concat(j.ready, j.idle) {
		room += f.size - dataStart
	}
	if !j.diskFull {
		room += j.cfg.MaxBytes - j.diskBytes
	}
	return room
}

// Stats counts requests to the disk.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.stats
	s.DiskBytes = j.diskBytes
	return s
}

// piece is one contiguous write.
type piece struct {
	file *file
	off  int64
	bufs [][]byte
	size int64
}

// Write appends whole frames of one window, as PutFrame left them: position, marks, salt and CRC are patched in place, so
// nobody may read or change chunks meanwhile. A window may come in several calls, a lower one never again. There is one
// write per file. After ErrFull nothing was written and the same call may be made again; after any other disk error the
// journal is broken. Nothing is on disk before Sync.
func (j *Journal) Write(window int64, chunks ...[]byte) error {
	j.writing <- struct{}{}
	defer func() { <-j.writing }()
	if err := j.admit(window); err != nil {
		return err
	}
	pieces, taken, err := j.place(window, chunks)
	if err != nil {
		j.putBack(taken)
		return err
	}
	for _, p := range pieces {
		if err := p.file.f.WriteAt(p.bufs, p.off); err != nil {
			return j.breakWith(fmt.Errorf("write window %d: %w", window, err))
		}
	}
	j.wrote(window, pieces, taken)
	return nil
}

func (j *Journal) admit(window int64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usable(); err != nil {
		return err
	}
	if window < j.lastWindow {
		return fmt.Errorf("journal: window %d after window %d", window, j.lastWindow)
	}
	return nil
}

func (j *Journal) usable() error {
	switch {
	case j.broken != nil:
		return fmt.Errorf("%w: %w", ErrBroken, j.broken)
	case j.closed:
		return errors.New("journal is closed")
	case !j.recovered:
		return errors.New("journal has not been recovered")
	}
	return nil
}

// place gives every frame its position, taking new files as needed; nothing is written to them yet.
func (j *Journal) place(window int64, chunks [][]byte) (pieces []piece, taken []*file, err error) {
	j.mu.Lock()
	cur, at, prev, mark, released := j.active, int64(0), j.head, j.synced, j.released
	j.mu.Unlock()
	if cur != nil {
		at = cur.end
	}
	for _, chunk := range chunks {
		begin := 0 // of what of chunk is not in a piece yet
		for off := 0; off < len(chunk); {
			size, w, err := frameAt(chunk[off:])
			if err == nil && w != window {
				err = fmt.Errorf("a frame of window %d", w)
			}
			if err != nil {
				return nil, taken, fmt.Errorf("journal: write window %d: %w", window, err)
			}
			if cur == nil || at+int64(size) > cur.limit() {
				pieces = extend(pieces, cur, at, chunk[begin:off])
				begin = off
				if cur, err = j.take(int64(size)); err != nil {
					return nil, taken, err
				}
				taken = append(taken, cur)
				at = cur.start
			}
			seal(chunk[off:], cur.salt, at, mark, released, at-prev)
			at += int64(size)
			prev = at
			off += size
		}
		pieces = extend(pieces, cur, at, chunk[begin:])
	}
	return pieces, taken, nil
}

// extend adds b, which ends at position end of f, to the last piece or to a new one.
func extend(pieces []piece, f *file, end int64, b []byte) []piece {
	if len(b) == 0 {
		return pieces
	}
	n := int64(len(b))
	if i := len(pieces) - 1; i >= 0 && pieces[i].file == f {
		pieces[i].bufs = append(pieces[i].bufs, b)
		pieces[i].size += n
		return pieces
	}
	return append(pieces, piece{file: f, off: dataStart + end - n - f.start, bufs: [][]byte{b}, size: n})
}

// wrote takes the pieces into account.
func (j *Journal) wrote(window int64, pieces []piece, taken []*file) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, p := range pieces {
		if len(j.windows) == 0 || j.windows[len(j.windows)-1].window < window {
			j.windows = append(j.windows, windowStart{window, p.file.start + p.off - dataStart})
		}
		if p.file != j.active {
			if j.active != nil {
				j.retire(j.active)
			}
			j.active = p.file
		}
		p.file.end = p.file.start + p.off - dataStart + p.size
		p.file.lastWindow = window
		j.head = p.file.end
		j.unreleased += p.size
		if !slices.Contains(j.dirty, p.file) {
			j.dirty = append(j.dirty, p.file)
		}
		j.stats.Writes++
		j.stats.WrittenBytes += p.size
	}
	j.lastWindow = window
	if len(taken) > 0 {
		j.wakeRun()
	}
}

// retire files away what was the active file.
func (j *Journal) retire(f *file) {
	if f.end <= j.released {
		j.idle = append(j.idle, f)
	} else {
		j.used = append(j.used, f)
	}
}

// Sync returns when all that was written before is on disk. Calls that wait for a running one share the next. An error
// breaks the journal for good: what the page cache then shows proves nothing.
func (j *Journal) Sync() error {
	j.syncing <- struct{}{}
	defer func() { <-j.syncing }()
	j.mu.Lock()
	err, files, target := j.usable(), j.dirty, j.head
	j.dirty = nil
	j.mu.Unlock()
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := f.f.Sync(); err != nil {
			return j.breakWith(fmt.Errorf("sync: %w", err))
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.synced = target
	j.stats.Syncs += int64(len(files))
	return nil
}

// Release says that every window up to and including window is committed; files that hold nothing newer are recycled. It
// touches no disk: after a crash released frames may come back.
func (j *Journal) Release(window int64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usable(); err != nil {
		return err
	}
	n := 0
	for n < len(j.windows) && j.windows[n].window <= window {
		n++
	}
	if n == 0 {
		return nil
	}
	j.windows = slices.Delete(j.windows, 0, n)
	to := j.head
	if len(j.windows) > 0 {
		to = j.windows[0].position
	}
	j.unreleased -= j.framesBetween(j.released, to)
	j.released = to
	for len(j.used) > 0 && j.used[0].end <= to {
		j.idle = append(j.idle, j.used[0])
		j.used = slices.Delete(j.used, 0, 1)
	}
	j.wakeRun()
	return nil
}

// framesBetween counts the bytes of frames in [from, to); files end before their limit.
func (j *Journal) framesBetween(from, to int64) (n int64) {
	for _, f := range j.used {
		n += max(0, min(to, f.end)-max(from, f.start))
	}
	if f := j.active; f != nil {
		n += max(0, min(to, f.end)-max(from, f.start))
	}
	return n
}

// breakWith makes err the journal's last word and returns it as ErrBroken.
func (j *Journal) breakWith(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken == nil {
		j.broken = err
		j.cfg.Logger.Error("journal is broken: nothing more will be written", "dir", j.dir, "error", err)
	}
	return fmt.Errorf("%w: %w", ErrBroken, j.broken)
}

// wakeRun is called under mu or without it.
func (j *Journal) wakeRun() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// Close unlocks the directory. It does not sync: what nobody synced, nobody relies on.
func (j *Journal) Close() error {
	for _, turn := range []chan struct{}{j.writing, j.preparing, j.syncing} {
		turn <- struct{}{}
		defer func() { <-turn }()
	}
	j.mu.Lock()
	closed := j.closed
	j.closed = true
	j.mu.Unlock()
	if closed {
		return nil
	}
	j.closeFiles()
	return j.lock.Close()
}

func (j *Journal) closeFiles() {
	for _, f := range j.files {
		_ = f.f.Close() // nothing depends on it: only Sync promises
	}
}

// salt draws a start value for a life's CRCs, other than the one before in the same file.
func (j *Journal) salt(not uint32) (uint32, error) {
	for {
		var b [4]byte
		if _, err := io.ReadFull(j.cfg.Random, b[:]); err != nil {
			return 0, fmt.Errorf("draw a salt: %w", err)
		}
		if s := binary.BigEndian.Uint32(b[:]); s != 0 && s != not {
			return s, nil
		}
	}
}

// isFull tells a full disk, or a full quota, from a broken one.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
