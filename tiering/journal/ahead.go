package journal

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Run keeps one file ahead of the writer, created, zeroed and with its new life begun, and gives surplus files back to
// the disk, until ctx ends or the journal breaks. Without it Write does the same when it needs a file. Nothing is created
// before the first Write: an agent whose producers wait for the object writes nothing to its disk.
func (j *Journal) Run(ctx context.Context) error {
	for {
		var retry <-chan time.Time
		if j.isDiskFull() {
			retry = time.After(fullRetry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-j.wake:
		case <-retry:
		}
		if err := j.ahead(); err != nil {
			return err
		}
	}
}

func (j *Journal) isDiskFull() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.diskFull
}

// ahead prepares one file if none is ready, and removes surplus ones.
func (j *Journal) ahead() error {
	j.preparing <- struct{}{}
	defer func() { <-j.preparing }()
	j.mu.Lock()
	err, enough := j.usable(), len(j.ready) > 0
	j.mu.Unlock()
	if err != nil {
		return err
	}
	if !enough {
		f, err := j.prepare(j.cfg.FileBytes)
		switch {
		case err == nil:
			j.mu.Lock()
			j.ready = append(j.ready, f)
			j.mu.Unlock()
		case !errors.Is(err, ErrFull):
			return err
		}
	}
	return j.trim()
}

// take hands the writer a file with a fresh life and room for a frame of size bytes.
func (j *Journal) take(size int64) (*file, error) {
	j.preparing <- struct{}{}
	defer func() { <-j.preparing }()
	j.mu.Lock()
	if len(j.ready) > 0 && j.ready[0].capacity >= size {
		f := j.ready[0]
		j.ready = slices.Delete(j.ready, 0, 1)
		j.mu.Unlock()
		return f, nil
	}
	// Lives are used in order, so those that are too small are passed over and begin again later.
	j.idle = append(j.idle, j.ready...)
	j.ready = nil
	j.mu.Unlock()
	return j.prepare(max(size, j.cfg.FileBytes))
}

// putBack returns files that were taken and not used.
func (j *Journal) putBack(taken []*file) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ready = slices.Concat(taken, j.ready)
}

// prepare begins a new life in an idle file, a grown one or a new one. The caller has the turn.
func (j *Journal) prepare(capacity int64) (*file, error) {
	f, err := j.blank(capacity)
	if err != nil {
		return nil, err
	}
	salt, err := j.salt(f.salt)
	if err != nil {
		j.leave(f)
		return nil, err
	}
	j.mu.Lock()
	h := lifeHeader{
		id: j.id, life: j.nextLife, start: j.nextStart, capacity: f.size - dataStart,
		released: j.released, cutFrom: j.cutFrom, cutTo: j.cutTo, salt: salt,
	}
	j.nextLife++
	j.nextStart = h.limit()
	j.mu.Unlock()
	if err := f.begin(h); err != nil {
		return nil, j.breakWith(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.durableRel = max(j.durableRel, h.released)
	j.stats.Lives++
	return f, nil
}

func (j *Journal) leave(f *file) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.idle = append(j.idle, f)
}

// blank finds a file without needed frames and with the capacity: the smallest idle one that is large enough, a new one,
// or the largest idle one made larger.
func (j *Journal) blank(capacity int64) (*file, error) {
	j.mu.Lock()
	best := -1
	for i, f := range j.idle {
		if f.size-dataStart >= capacity && (best < 0 || f.size < j.idle[best].size) {
			best = i
		}
	}
	if best >= 0 {
		f := j.idle[best]
		j.idle = slices.Delete(j.idle, best, best+1)
		j.mu.Unlock()
		return f, nil
	}
	fits := j.diskBytes+dataStart+capacity <= j.cfg.MaxBytes
	var largest *file
	for _, f := range j.idle {
		if largest == nil || f.size > largest.size {
			largest = f
		}
	}
	if !fits && largest != nil && j.diskBytes-largest.size+dataStart+capacity <= j.cfg.MaxBytes {
		j.idle = slices.DeleteFunc(j.idle, func(f *file) bool { return f == largest })
		j.mu.Unlock()
		return j.grow(largest, capacity)
	}
	bytes := j.diskBytes
	j.mu.Unlock()
	if !fits {
		return nil, fmt.Errorf("%w: %d bytes of %d are in files, another takes %d", ErrFull, bytes, j.cfg.MaxBytes, dataStart+capacity)
	}
	return j.create(capacity)
}

// create makes a file of zeros. A full disk is found here, before anything was accepted for it, never at a sync.
func (j *Journal) create(capacity int64) (*file, error) {
	if err := j.leaveRoom(dataStart + capacity); err != nil {
		return nil, j.noRoom(err)
	}
	j.mu.Lock()
	name := fmt.Sprintf("%06d.log", j.nextName)
	j.nextName++
	j.mu.Unlock()
	path := filepath.Join(j.live, name)
	handle, err := j.cfg.Disk.Open(path, true)
	if err != nil {
		return nil, j.noRoom(fmt.Errorf("create %s: %w", path, err))
	}
	f := &file{f: handle, name: name, size: dataStart + capacity}
	err = f.zero(0, f.size)
	if err == nil {
		err = j.cfg.Disk.SyncDir(j.live)
	}
	if err != nil {
		err = fmt.Errorf("fill %s with %d zeros: %w", path, f.size, err)
		_ = handle.Close()
		if rm := j.cfg.Disk.Remove(path); rm != nil || !isFull(err) {
			return nil, j.breakWith(err)
		}
		return nil, j.noRoom(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.files = append(j.files, f)
	j.diskBytes += f.size
	j.diskFull = false
	j.stats.FilesCreated++
	return f, nil
}

// leaveRoom fails where a file of size bytes would not leave as much again: the commit that gives the journal's files back
// needs room as well, where metadata and objects share its disk, and a file that is filled in vain takes all of it meanwhile.
func (j *Journal) leaveRoom(size int64) error {
	d, ok := j.cfg.Disk.(spacious)
	if !ok {
		return nil
	}
	free, err := d.Free(j.live)
	if err != nil || free >= 2*size {
		return nil // who cannot say will refuse the bytes
	}
	return fmt.Errorf("%w: %d bytes are free, a file of %d is to leave as many", syscall.ENOSPC, free, size)
}

// grow makes an idle file larger; no header is written until the zeros are on disk.
func (j *Journal) grow(f *file, capacity int64) (*file, error) {
	old := f.size
	if err := f.zero(old, dataStart+capacity); err != nil {
		j.leave(f)
		err = fmt.Errorf("grow %s to %d bytes: %w", f.name, dataStart+capacity, err)
		if isFull(err) {
			return nil, j.noRoom(err)
		}
		return nil, j.breakWith(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	f.size = dataStart + capacity
	j.diskBytes += f.size - old
	j.diskFull = false
	return f, nil
}

// noRoom turns err into ErrFull; the disk, not MaxBytes, is the bound from now on.
func (j *Journal) noRoom(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.diskFull {
		j.cfg.Logger.Warn("journal cannot grow: the disk refuses another file", "dir", j.dir, "error", err)
	}
	j.diskFull = true
	return fmt.Errorf("%w: %w", ErrFull, err)
}

// trim removes idle files beyond maxIdle. Only those go whose frames a synced header calls released: a missing life must
// never look like a lost one. (The file with that header ends at or behind the position it names, so it stays.)
func (j *Journal) trim() error {
	j.syncing <- struct{}{}
	defer func() { <-j.syncing }()
	for {
		f := j.surplus()
		if f == nil {
			return nil
		}
		_ = f.f.Close()
		if err := j.cfg.Disk.Remove(filepath.Join(j.live, f.name)); err != nil {
			return j.breakWith(fmt.Errorf("remove %s: %w", f.name, err))
		}
	}
}

func (j *Journal) surplus() *file {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.idle) <= maxIdle {
		return nil
	}
	i := slices.IndexFunc(j.idle, func(f *file) bool { return f.end < j.durableRel })
	if i < 0 {
		return nil
	}
	f := j.idle[i]
	same := func(g *file) bool { return g == f }
	j.idle = slices.Delete(j.idle, i, i+1)
	j.files = slices.DeleteFunc(j.files, same)
	j.dirty = slices.DeleteFunc(j.dirty, same)
	j.diskBytes -= f.size
	return f
}
