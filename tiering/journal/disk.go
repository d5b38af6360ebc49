package journal

import (
	"fmt"
	"io"
)

// Disk is what the journal asks of an operating system; journaltest has one that crashes.
type Disk interface {
	// Lock takes the directory for this process until Close, or fails with a *LockedError.
	Lock(dir string) (io.Closer, error)
	MkdirAll(dir string) error
	// List names the entries of dir, sorted.
	List(dir string) ([]string, error)
	// Open opens a file for reading and writing; create makes it, and fails where it exists.
	Open(path string, create bool) (File, error)
	Rename(from, to string) error
	Remove(path string) error
	// SyncDir makes creations, renames and removals in dir durable.
	SyncDir(dir string) error
}

// spacious is a Disk that knows how much is free where dir is.
type spacious interface {
	Free(dir string) (bytes int64, err error)
}

// File is one open file. ReadAt ends short with io.EOF at the end of the file.
type File interface {
	io.ReaderAt
	// WriteAt writes all of bufs, one behind the other, from off on, in as few calls as the system allows.
	WriteAt(bufs [][]byte, off int64) error
	// Sync returns when what was written is on the disk (fdatasync).
	Sync() error
	// Settle syncs, then drops the file from the page cache, so that what is read next comes from the disk.
	Settle() error
	Size() (int64, error)
	Close() error
}

// LockedError says that another process uses the directory.
type LockedError struct {
	Dir string
	PID string // as the holder wrote it; may be empty
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("journal directory %s is in use by another process (pid %q): stop it, or give each agent a directory of its own", e.Dir, e.PID)
}
