package cache

import (
	"container/heap"
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"varve.dev/objectstore"
)

const (
	// separator stands for the slash of a key in the name of its file; keys do not contain it.
	separator = "+"
	// fileSuffix marks the files that are ours: others in Dir are left alone. partSuffix ends those being written.
	fileSuffix = "+object"
	partSuffix = "+part"
	// maxName is what filesystems take, less what is put behind a key. Longer keys are not kept on disk.
	maxName = 255 - len(fileSuffix) - len("+18446744073709551615") - len(partSuffix)
	// copyBytes is how much of a body that is no image is written at once.
	copyBytes = 256 << 10
)

// fileEntry is a copy of an object on disk. It counts from before it is written until it is forgotten.
type fileEntry struct {
	key   string
	size  int64
	part  uint64        // number in the name while it is written
	ready bool          // the file is whole
	until time.Time     // wanted until then; zero where last use decides
	list  *list.List    // the list of fileOrder that it is in; nil: wanted
	at    *list.Element // there
	heap  int           // or its index in wanted
	going int64         // its part of Cache.goingBytes
}

// fileOrder says which file goes first: those in expired, then those in recent, from the front, then those in wanted.
type fileOrder struct {
	expired list.List // *fileEntry whose time has passed, and that nobody used since
	recent  list.List // *fileEntry, least recently used first
	wanted  wanted
}

// wanted is a heap of files by until, the earliest on top.
type wanted []*fileEntry

func (w wanted) Len() int           { return len(w) }
func (w wanted) Less(i, j int) bool { return w[i].until.Before(w[j].until) }
func (w wanted) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].heap, w[j].heap = i, j
}

func (w *wanted) Push(x any) {
	e := x.(*fileEntry)
	e.heap = len(*w)
	*w = append(*w, e)
}

func (w *wanted) Pop() any {
	old := *w
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*w = old[:len(old)-1]
	return e
}

func (o *fileOrder) add(e *fileEntry) {
	if e.until.IsZero() {
		e.list, e.at = &o.recent, o.recent.PushBack(e)
		return
	}
	heap.Push(&o.wanted, e)
}

func (o *fileOrder) remove(e *fileEntry) {
	if e.list != nil {
		e.list.Remove(e.at)
		return
	}
	heap.Remove(&o.wanted, e.heap)
}

func (o *fileOrder) use(e *fileEntry) {
	if e.list != nil {
		e.list.Remove(e.at)
		e.list, e.at = &o.recent, o.recent.PushBack(e)
	}
}

// first is the file to go.
func (o *fileOrder) first(now time.Time) *fileEntry {
	for len(o.wanted) > 0 && !o.wanted[0].until.After(now) {
		e := heap.Pop(&o.wanted).(*fileEntry)
		e.list, e.at = &o.expired, o.expired.PushBack(e)
	}
	for _, l := range []*list.List{&o.expired, &o.recent} {
		if front := l.Front(); front != nil {
			return front.Value.(*fileEntry)
		}
	}
	return o.wanted[0]
}

func (c *Cache) path(key string) string {
	return filepath.Join(c.cfg.Dir, strings.ReplaceAll(key, "/", separator)+fileSuffix)
}

// adopt takes over what an earlier process left, by name and length: the bytes are checked whenever they are read.
func (c *Cache) adopt() error {
	if c.cfg.Dir == "" {
		return nil
	}
	if err := os.MkdirAll(c.cfg.Dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(c.cfg.Dir)
	if err != nil {
		return err
	}
	type found struct {
		*fileEntry
		changed time.Time
	}
	var files []found
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if strings.HasSuffix(entry.Name(), partSuffix) {
			_ = os.Remove(filepath.Join(c.cfg.Dir, entry.Name())) // half a copy; if it stays, the next start tries again
			continue
		}
		if name, ours := strings.CutSuffix(entry.Name(), fileSuffix); ours {
			key := strings.ReplaceAll(name, separator, "/")
			files = append(files, found{&fileEntry{key: key, size: info.Size(), ready: true}, info.ModTime()})
		}
	}
	slices.SortFunc(files, func(a, b found) int { return a.changed.Compare(b.changed) })
	now := c.cfg.Now()
	for _, f := range files {
		if f.changed.After(now) { // Keep leaves there how long the file is wanted
			f.until = f.changed
		}
		c.addFile(f.fileEntry)
	}
	c.measure()
	return c.remove(c.overfull(now))
}

func (c *Cache) addFile(e *fileEntry) {
	c.files[e.key] = e
	c.fileBytes += e.size
	c.order.add(e)
}

// Keep writes a copy of an object to local disk: one that was sealed here, and that readers will want until then. What
// has passed its time goes first, least recently used first; then what is wanted shortest. An object that would be first
// to go is not written, and neither is anything for a while after the disk refused: neither is an error.
func (c *Cache) Keep(key string, body objectstore.Body, until time.Time) error {
	keep := max(0, until.Sub(c.cfg.Now()))
	_, err := c.store(context.Background(), copying{key: key, body: body, keep: keep}, func() bool { return true })
	return err
}

// copying is what becomes a file.
type copying struct {
	key  string
	body objectstore.Body
	keep time.Duration
	pace int64 // bytes per second; 0: as fast as the disk takes them
	read bool  // its readers had it from memory: it need not be in the page cache too
}

// store writes a copy, unless there is no room or wanted, asked under the lock, says no. When ctx ends it hurries.
func (c *Cache) store(ctx context.Context, of copying, wanted func() bool) (written bool, err error) {
	c.writer <- struct{}{}
	defer func() { <-c.writer }()
	c.measure()
	e, victims := c.admit(of, wanted)
	c.clear(victims)
	if e == nil {
		return false, nil
	}
	err = c.writeFile(ctx, e, of)
	c.mu.Lock()
	current := c.files[of.key] == e
	switch {
	case err != nil && current:
		c.forgetFile(e)
	case current:
		e.ready = true
		written = true
	}
	c.mu.Unlock()
	if err != nil {
		c.pause(err)
		return false, fmt.Errorf("keep a copy of %s: %w", of.key, err)
	}
	if !written { // dropped meanwhile
		err = c.remove([]*fileEntry{e})
	}
	return written, err
}

// admit reserves room for a file and says which ones must go for it.
func (c *Cache) admit(of copying, wanted func() bool) (*fileEntry, []*fileEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := of.body.Size()
	if c.closed || c.files[of.key] != nil || c.paused() || !wanted() || len(of.key) > maxName || size > c.cfg.DiskBytes {
		return nil, nil
	}
	now := c.cfg.Now()
	if size > c.diskLimit {
		return nil, c.overfull(now)
	}
	c.parts++
	e := &fileEntry{key: of.key, size: size, part: c.parts}
	if of.keep > 0 {
		e.until = now.Add(of.keep)
	}
	c.addFile(e)
	victims := c.overfull(now)
	if c.files[of.key] != e { // it would be the first to go
		return nil, victims
	}
	return e, victims
}

// overfull forgets files until the rest fits, and returns them.
func (c *Cache) overfull(now time.Time) (victims []*fileEntry) {
	for c.fileBytes > c.diskLimit {
		first := c.order.first(now)
		c.leave(first)
		c.stats.FilesEvicted++
		if first.ready {
			victims = append(victims, first)
		}
	}
	return victims
}

func (c *Cache) forgetFile(e *fileEntry) {
	if c.files[e.key] == e {
		delete(c.files, e.key)
		c.fileBytes -= e.size
		c.order.remove(e)
	}
}

// leave forgets a file that remove comes for: until then it takes room.
func (c *Cache) leave(e *fileEntry) {
	c.forgetFile(e)
	if e.ready {
		e.going = e.size
		c.goingBytes += e.going
	}
}

// clear removes files that went for lack of room.
func (c *Cache) clear(victims []*fileEntry) {
	if err := c.remove(victims); err != nil {
		c.cfg.Logger.Warn("cache cannot remove a file", "error", err)
	}
}

// remove deletes files. One that is still being written is deleted by its writer.
func (c *Cache) remove(entries []*fileEntry) error {
	var problems []error
	for _, e := range entries {
		if err := removeFile(c.path(e.key), e.size); err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
		c.mu.Lock()
		c.goingBytes -= e.going
		e.going = 0
		c.mu.Unlock()
	}
	return errors.Join(problems...)
}

// shrinkBy is how much of a large file goes at a time. To free 200 MiB at once takes ext4 with discard 45 ms, and no fsync,
// the journal's above all, gets through meanwhile.
const shrinkBy = 16 << 20

// removeFile removes a file of size bytes. A large one loses its name first: what is left of it is nobody's copy.
func removeFile(path string, size int64) error {
	if size <= shrinkBy {
		return os.Remove(path)
	}
	going := path + partSuffix
	if err := os.Rename(path, going); err != nil {
		return err
	}
	for size > shrinkBy {
		size -= shrinkBy
		if os.Truncate(going, size) != nil {
			break // then all of it at once
		}
	}
	return os.Remove(going)
}

// writeFile writes the copy beside its name and renames it. It is not synced: after a crash its sums tell.
func (c *Cache) writeFile(ctx context.Context, e *fileEntry, of copying) error {
	part := fmt.Sprintf("%s+%d%s", c.path(e.key), e.part, partSuffix)
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(writeBody(ctx, f, of), f.Close())
	if err == nil && !e.until.IsZero() {
		err = os.Chtimes(part, time.Time{}, e.until)
	}
	if err == nil {
		err = os.Rename(part, c.path(e.key))
	}
	if err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return nil
}

// writeBody writes an image from where it lies, and any other body through a buffer.
func writeBody(ctx context.Context, f *os.File, of copying) error {
	body := of.body
	if im, ok := body.(Image); ok {
		return writeSlices(ctx, f, im.Slices(nil, 0, im.Size()), objectstore.Pace{Rate: of.pace}, of.read)
	}
	r := body.Open()
	if closer, ok := r.(io.Closer); ok {
		defer closer.Close()
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{r}, make([]byte, copyBytes))
	if err == nil && n != body.Size() {
		err = fmt.Errorf("a body of %d bytes has %d", body.Size(), n)
	}
	return err
}

func (c *Cache) paused() bool { return c.cfg.Now().Before(c.pausedUntil) }

// pause stops writing for a while, and says so once.
func (c *Cache) pause(err error) {
	c.mu.Lock()
	again := c.paused()
	c.pausedUntil = c.cfg.Now().Add(writePause)
	c.stats.WriteErrors++
	c.mu.Unlock()
	if !again {
		c.cfg.Logger.Warn("cache cannot write to its disk and goes on without it for a while", "dir", c.cfg.Dir, "for", writePause, "error", err)
	}
}

// fromDisk reads the range, and the whole blocks around it, from a file. A file that is gone, short or wrong is forgotten.
func (c *Cache) fromDisk(l *lease, o Object, off, n int64) bool {
	e := c.file(o.Key)
	if e == nil {
		return false
	}
	first, blocks := o.cover(off, off+n)
	start, end := off, off+n
	if blocks > 0 {
		start, end = o.blockStart(first), max(end, o.Blocks.Ends[first+blocks-1])
	}
	buf := c.pool.get(end - start)
	if err := readFile(c.path(o.Key), e.size, &o, buf, start, first, blocks); err != nil {
		c.pool.put(buf)
		c.badFile(e, err)
		return false
	}
	l.buffer = buf
	l.slices = slice(l.slices, buf, start, off, off+n)
	c.mu.Lock()
	c.stats.DiskHits++
	c.mu.Unlock()
	return true
}

func (c *Cache) file(key string) *fileEntry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.files[key]
	if e == nil || !e.ready {
		return nil
	}
	c.order.use(e)
	return e
}

// readFile fills dst from offset off on, and checks it, block by block: while a block is read and hashed it stays in the
// processor's cache, which a whole view does not.
func readFile(path string, size int64, o *Object, dst []byte, off int64, first, blocks int) error {
	if size != o.Length {
		return fmt.Errorf("%s has %d bytes, want %d", path, size, o.Length)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for i := first; i < first+blocks; i++ {
		at, end := o.blockStart(i)-off, o.Blocks.Ends[i]-off
		if _, err := f.ReadAt(dst[at:end], off+at); err != nil {
			return err
		}
		if err := o.verify(dst[at:end], i, 1); err != nil {
			return err
		}
	}
	behind := int64(0) // the blocks
	if blocks > 0 {
		behind = o.Blocks.Ends[first+blocks-1] - off
	}
	if behind == int64(len(dst)) {
		return nil
	}
	_, err = f.ReadAt(dst[behind:], off+behind)
	return err
}

// badFile forgets a file. That it vanished is no news, nor is anything of one that is being removed.
func (c *Cache) badFile(e *fileEntry, err error) {
	vanished := errors.Is(err, fs.ErrNotExist)
	c.mu.Lock()
	current := c.files[e.key] == e
	switch {
	case current && vanished:
		c.forgetFile(e)
	case current:
		c.leave(e)
	}
	c.mu.Unlock()
	if vanished || !current {
		return
	}
	c.badBytes(placeDisk, e.key, err)
	_ = c.remove([]*fileEntry{e}) // a file that stays is found again, and found bad again
}

func (c *Cache) badBytes(place, key string, err error) {
	c.mu.Lock()
	if place == placeDisk {
		c.stats.BadFiles++
	} else {
		c.stats.BadGets++
	}
	c.mu.Unlock()
	c.cfg.Logger.Warn("cache found bad bytes", "place", place, "key", key, "error", err)
}
