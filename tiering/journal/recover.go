package journal

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"varve.dev/metadata"
)

// Report is what Recover found.
type Report struct {
	Frames, Bytes int64 // handed back
	// LastWindow is the highest window that the files name; windows go on above it. Once what was handed back is
	// committed, Release(LastWindow).
	LastWindow int64
	Position   int64 // end of the last frame handed back; all before it has been read from the disk
	Torn       int64 // bytes of whole frames that stood behind a torn one, never synced, and were cut
	Unreadable int64 // bytes that the disk refused to read
	// Quarantined names every directory beside the journal that holds a former, damaged one. It stays until a person has
	// looked and removed it.
	Quarantined []string
}

// CorruptError says that frames which were on disk are damaged. The whole journal was set aside, byte for byte, under
// Quarantine. This Journal refuses everything; the next Open makes one with another uuid, so that a `local` partition
// whose tail it was waits for a person instead of losing records in silence.
type CorruptError struct {
	Journal    metadata.UUID
	Quarantine string
	Position   int64 // where whole frames end
	Evidence   int64 // up to here they were known to be on disk; 0 where a file lost both copies of its header
	Reason     string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal %s is corrupt at position %d: %s; it was set aside as %s", e.Journal, e.Position, e.Reason, e.Quarantine)
}

// Recover hands back, in order, every valid frame that is still in the files and is not known to be released; a Frame's
// Batch is valid during the call only. dbSynced is the position that the session row names as fsynced, 0 if the row names
// another journal. Called once, before the first Write. A torn tail is cut; corruption behind the fsync mark ends in a
// *CorruptError, after the whole frames before it were handed back: they may help, but they are not the whole tail.
func (j *Journal) Recover(dbSynced int64, frame func(Frame) error) (Report, error) {
	j.writing <- struct{}{}
	defer func() { <-j.writing }()
	j.mu.Lock()
	again := j.tried || j.closed
	j.tried = true
	j.mu.Unlock()
	if again {
		return Report{}, errors.New("journal: Recover comes once, before everything else")
	}
	r := recovery{j: j}
	rep, err := r.read(dbSynced, frame)
	if err != nil {
		var corrupt *CorruptError
		if errors.As(err, &corrupt) || errors.Is(err, errSettle) {
			_ = j.breakWith(err)
		}
		return rep, err
	}
	r.adopt()
	j.cfg.Logger.Info("journal recovered", "dir", j.dir, "journal", j.id, "frames", rep.Frames, "bytes", rep.Bytes,
		"torn", rep.Torn, "unreadable", rep.Unreadable, "position", rep.Position, "quarantined", rep.Quarantined)
	return rep, nil
}

// errSettle marks a disk that cannot say what it holds.
var errSettle = errors.New("cannot tell what is on disk")

// recovery is the state of one Recover.
type recovery struct {
	j          *Journal
	lives      []*file // in order of life
	unused     []*file // never used, or torn before first use
	damaged    []*file // both copies of the header are bad
	runs       []run
	cuts       []span
	released   int64
	lastWindow int64
	unreadable int64
	verdict    verdict
}

func (r *recovery) read(dbSynced int64, frame func(Frame) error) (rep Report, err error) {
	j := r.j
	defer func() {
		rep.LastWindow, rep.Unreadable = r.lastWindow, r.unreadable
		q, qerr := j.quarantined()
		rep.Quarantined = q
		err = errors.Join(err, qerr)
	}()
	if err := r.headers(); err != nil {
		return rep, err
	}
	for i, f := range r.lives {
		if f.limit() <= r.released {
			continue // all released: no frame of it matters
		}
		if err := f.f.Settle(); err != nil {
			return rep, fmt.Errorf("%w: %w", errSettle, err)
		}
		if err := r.scan(i, f); err != nil {
			return rep, err
		}
	}
	sortRuns(r.runs)
	r.verdict = chain(r.runs, r.cuts, r.released, dbSynced)
	rep.Position, rep.Torn = r.verdict.end, r.verdict.torn
	if rep.Frames, rep.Bytes, err = r.handBack(frame); err != nil {
		return rep, err
	}
	if r.verdict.rotten {
		return rep, r.quarantine(r.verdict.evidence, fmt.Sprintf("it was known to be on disk up to %d", r.verdict.evidence))
	}
	if len(r.damaged) > 0 {
		return rep, r.quarantine(0, fmt.Sprintf("both headers of %s are damaged", r.damaged[0].name))
	}
	return rep, nil
}

// headers reads every file's header and sorts the files by life.
func (r *recovery) headers() error {
	for _, f := range r.j.files {
		damaged, err := f.readHeader()
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", f.name, err)
		case damaged:
			r.damaged = append(r.damaged, f)
		case f.life == 0:
			r.unused = append(r.unused, f)
		case f.id != r.j.id:
			return fmt.Errorf("%s belongs to journal %s, this is %s: move it away", f.name, f.id, r.j.id)
		default:
			r.lives = append(r.lives, f)
			r.released = max(r.released, f.released)
			r.cuts = append(r.cuts, span{f.cutFrom, f.cutTo})
		}
	}
	slices.SortFunc(r.lives, func(a, b *file) int { return cmp.Compare(a.life, b.life) })
	return nil
}

// scan finds the runs of whole frames in lives[i], also those behind damage.
func (r *recovery) scan(i int, f *file) error {
	w := window{f: f.f, size: f.size}
	defer func() { r.unreadable += w.unreadable }()
	open := false
	for at := f.start; at+HeaderSize <= f.readable(); {
		h, batch, ok := w.frame(f, at)
		if ok {
			if _, err := h.known(); err != nil {
				return err
			}
			r.released = max(r.released, min(h.released, h.position))
			r.lastWindow = max(r.lastWindow, h.frame.Window)
		}
		if !ok || !bodyWhole(batch) {
			open = false
			if ok { // the batch is damaged, the mark is not
				r.runs = append(r.runs, run{file: i, start: at, end: at + h.size(), mark: h.mark, damaged: true})
			}
			at = w.candidate(f, at+8)
			continue
		}
		if !open || h.prev != at {
			r.runs = append(r.runs, run{file: i, start: at, prev: h.prev})
			open = true
		}
		last := &r.runs[len(r.runs)-1]
		at += h.size()
		last.end, last.mark = at, max(last.mark, h.mark)
	}
	return nil
}

// handBack reads the kept runs once more and gives their frames away.
func (r *recovery) handBack(frame func(Frame) error) (frames, bytes int64, err error) {
	for _, run := range r.verdict.keep {
		f := r.lives[run.file]
		w := window{f: f.f, size: f.size}
		for at := run.start; at < run.end; {
			h, batch, ok := w.frame(f, at)
			if !ok || !bodyWhole(batch) || at+h.size() > run.end {
				return frames, bytes, fmt.Errorf("%w: %s reads differently at position %d than a moment ago", errSettle, f.name, at)
			}
			at += h.size()
			f.lastWindow = max(f.lastWindow, h.frame.Window)
			if read, _ := h.known(); !read {
				continue
			}
			r.keepWindow(h.frame.Window, h.position)
			h.frame.Batch = batch
			if err := frame(h.frame); err != nil {
				return frames, bytes, err
			}
			frames++
			bytes += h.size()
		}
		f.end = run.end
	}
	return frames, bytes, nil
}

func (r *recovery) keepWindow(window, position int64) {
	ws := &r.j.windows
	if n := len(*ws); n == 0 || (*ws)[n-1].window < window {
		*ws = append(*ws, windowStart{window, position})
	}
}

// adopt makes the files what Write goes on with: a new life, behind every position that may ever have been written.
func (r *recovery) adopt() {
	j := r.j
	j.mu.Lock()
	defer j.mu.Unlock()
	kept := make(map[*file]bool, len(r.verdict.keep))
	for _, run := range r.verdict.keep {
		f := r.lives[run.file]
		if !kept[f] {
			j.used = append(j.used, f)
			kept[f] = true
		}
		j.unreleased += run.end - run.start
	}
	for _, f := range r.lives {
		j.nextLife = max(j.nextLife, f.life+1)
		j.nextStart = max(j.nextStart, f.limit())
		j.durableRel = max(j.durableRel, f.lifeHeader.released)
		if !kept[f] {
			j.idle = append(j.idle, f)
		}
	}
	j.idle = append(j.idle, r.unused...)
	j.nextStart = max(j.nextStart, r.verdict.end)
	j.head, j.synced, j.released = r.verdict.end, r.verdict.end, r.verdict.from
	j.cutFrom, j.cutTo = r.verdict.end, j.nextStart
	j.lastWindow = r.lastWindow
	j.recovered = true
}

// quarantine sets the whole journal aside by one rename.
func (r *recovery) quarantine(evidence int64, reason string) error {
	j := r.j
	names, err := j.cfg.Disk.List(j.dir)
	if err != nil {
		return fmt.Errorf("set a corrupt journal aside: %w", err)
	}
	name := quarantinePrefix + j.id.String()
	for n := 2; slices.Contains(names, name); n++ {
		name = fmt.Sprintf("%s%s-%d", quarantinePrefix, j.id, n)
	}
	to := filepath.Join(j.dir, name)
	if err := j.cfg.Disk.Rename(j.live, to); err != nil {
		return fmt.Errorf("set a corrupt journal aside: %w", err)
	}
	if err := j.cfg.Disk.SyncDir(j.dir); err != nil {
		return fmt.Errorf("set a corrupt journal aside: %w", err)
	}
	corrupt := &CorruptError{Journal: j.id, Quarantine: to, Position: r.verdict.end, Evidence: evidence, Reason: reason}
	j.cfg.Logger.Error("journal is corrupt and was set aside", "journal", j.id, "quarantine", to,
		"position", corrupt.Position, "evidence", evidence, "reason", reason)
	return corrupt
}

func (j *Journal) quarantined() (found []string, err error) {
	names, err := j.cfg.Disk.List(j.dir)
	for _, name := range names {
		if strings.HasPrefix(name, quarantinePrefix) {
			found = append(found, filepath.Join(j.dir, name))
		}
	}
	return found, err
}

func decodeUUID(s string) (id metadata.UUID, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, false
	}
	return metadata.UUID(b), true
}

const (
	// windowBytes is how much is read at once; a larger frame takes what it needs, up to maxBatch.
	windowBytes = 1 << 20
	// pageBytes is what is given up where the disk cannot read.
	pageBytes = 4096
)

// window is a sliding view of a file.
type window struct {
	f          File
	size       int64
	buf        []byte
	base       int64 // offset of buf[0]
	unreadable int64
}

// at lends n bytes at offset off, or nil where the file is shorter. What the disk cannot read is zeros, which no frame
// passes.
func (w *window) at(off int64, n int) []byte {
	if off < 0 || n < 0 || int64(n) > w.size-off {
		return nil
	}
	if off < w.base || off+int64(n) > w.base+int64(len(w.buf)) {
		want := min(w.size-off, int64(max(n, windowBytes)))
		if int64(cap(w.buf)) < want {
			w.buf = make([]byte, want)
		}
		w.buf, w.base = w.buf[:want], off
		w.fill()
	}
	return w.buf[off-w.base:][:n]
}

func (w *window) fill() {
	if n, err := w.f.ReadAt(w.buf, w.base); n == len(w.buf) {
		return
	} else if err == io.EOF {
		clear(w.buf[n:])
		return
	}
	for from := 0; from < len(w.buf); from += pageBytes {
		page := w.buf[from:min(len(w.buf), from+pageBytes)]
		if n, err := w.f.ReadAt(page, w.base+int64(from)); n < len(page) {
			clear(page)
			if err != io.EOF {
				w.unreadable += int64(len(page))
			}
		}
	}
}

// frame reads the frame of f at a position. ok: its own CRC holds; the batch is still to be checked.
func (w *window) frame(f *file, position int64) (h frameHeader, batch []byte, ok bool) {
	off := dataStart + position - f.start
	b := w.at(off, HeaderSize)
	if b == nil {
		return h, nil, false
	}
	n := int64(binary.BigEndian.Uint32(b[4:]))
	if int64(binary.BigEndian.Uint64(b[8:])) != position || n > maxBatch ||
		position+int64(FrameSize(int(n))) > f.readable() {
		return h, nil, false
	}
	head := w.at(off, HeaderSize+int(min(n, batchHead)))
	if head == nil || frameSum(f.salt, head) != binary.BigEndian.Uint32(head) {
		return h, nil, false
	}
	h = parseHeader(head)
	if h.mark < 0 || h.mark > position || h.released < 0 || h.released > position || h.prev < 0 {
		return h, nil, false
	}
	whole := w.at(off, FrameSize(h.length))
	if whole == nil {
		return h, nil, false
	}
	return h, whole[HeaderSize : HeaderSize+h.length : HeaderSize+h.length], true
}

// candidate finds the next place at or behind position where a frame of this life could start: its own position stands
// in it.
func (w *window) candidate(f *file, position int64) int64 {
	for position+HeaderSize <= f.readable() {
		off := dataStart + position - f.start
		n := int(min(windowBytes/2, f.readable()-position)) &^ 7
		b := w.at(off, n)
		if b == nil {
			return f.readable()
		}
		for i := 0; i+16 <= len(b); i += 8 {
			if int64(binary.BigEndian.Uint64(b[i+8:])) == position+int64(i) {
				return position + int64(i)
			}
		}
		position += int64(n) - 8
	}
	return f.readable()
}
