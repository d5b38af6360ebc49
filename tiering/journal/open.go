package journal

import (
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"varve.dev/metadata"
)

const (
	liveDir          = "live"
	newDir           = "live.new"
	quarantinePrefix = "quarantine-"
	idFile           = "id"
	fileSuffix       = ".log"
	// idBytes is the length of the id file: a word, the uuid's 22 characters, its CRC in hex, and a newline.
	idBytes = len("varve-journal ") + 22 + 1 + 8 + 1
)

// makeDir creates the journal's directory, durably.
func (j *Journal) makeDir() error {
	if _, err := j.cfg.Disk.List(j.dir); err == nil {
		return nil
	}
	if err := j.cfg.Disk.MkdirAll(j.dir); err != nil {
		return err
	}
	return j.cfg.Disk.SyncDir(filepath.Dir(j.dir))
}

// openLive reads the journal's id and opens its files, or makes a journal where there is none.
func (j *Journal) openLive() error {
	names, err := j.cfg.Disk.List(j.dir)
	if err != nil {
		return err
	}
	if !slices.Contains(names, liveDir) {
		return j.makeLive(names)
	}
	if j.id, err = j.readID(filepath.Join(j.live, idFile)); err != nil {
		return err
	}
	return j.openFiles()
}

// makeLive creates live/ under another name first, so that it appears whole.
func (j *Journal) makeLive(names []string) error {
	fresh := filepath.Join(j.dir, newDir)
	if slices.Contains(names, newDir) { // from an attempt that did not end
		left, err := j.cfg.Disk.List(fresh)
		if err != nil {
			return err
		}
		for _, name := range left {
			if err := j.cfg.Disk.Remove(filepath.Join(fresh, name)); err != nil {
				return err
			}
		}
	} else if err := j.cfg.Disk.MkdirAll(fresh); err != nil {
		return err
	}
	if _, err := io.ReadFull(j.cfg.Random, j.id[:]); err != nil {
		return fmt.Errorf("draw a uuid: %w", err)
	}
	if err := j.writeID(filepath.Join(fresh, idFile)); err != nil {
		return err
	}
	if err := j.cfg.Disk.SyncDir(fresh); err != nil {
		return err
	}
	if err := j.cfg.Disk.Rename(fresh, j.live); err != nil {
		return err
	}
	if err := j.cfg.Disk.SyncDir(j.dir); err != nil {
		return err
	}
	j.cfg.Logger.Info("made a new journal", "dir", j.dir, "journal", j.id)
	return nil
}

func idLine(id metadata.UUID) string {
	return fmt.Sprintf("varve-journal %s %08x\n", id, crc32.Checksum(id[:], castagnoli))
}

func (j *Journal) writeID(path string) error {
	f, err := j.cfg.Disk.Open(path, true)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.WriteAt([][]byte{[]byte(idLine(j.id))}, 0); err != nil {
		return err
	}
	return f.Sync()
}

func (j *Journal) readID(path string) (id metadata.UUID, err error) {
	f, err := j.cfg.Disk.Open(path, false)
	if err != nil {
		return id, err
	}
	defer f.Close()
	b := make([]byte, idBytes+1)
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return id, err
	}
	if id, ok := parseID(string(b[:n])); ok {
		return id, nil
	}
	return id, fmt.Errorf("%s does not name a journal: it holds %q; restore it, or move %s aside and give up what was not uploaded", path, b[:n], filepath.Dir(path))
}

func parseID(line string) (metadata.UUID, bool) {
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return metadata.UUID{}, false
	}
	id, ok := decodeUUID(fields[1])
	return id, ok && line == idLine(id)
}

// openFiles opens every file of live/; what they hold is read by Recover.
func (j *Journal) openFiles() error {
	names, err := j.cfg.Disk.List(j.live)
	if err != nil {
		return err
	}
	for _, name := range names {
		var n int
		if !strings.HasSuffix(name, fileSuffix) {
			continue
		}
		if _, err := fmt.Sscanf(name, "%d.log", &n); err != nil || n < 0 {
			continue
		}
		handle, err := j.cfg.Disk.Open(filepath.Join(j.live, name), false)
		if err != nil {
			return err
		}
		f := &file{f: handle, name: name}
		j.files = append(j.files, f)
		if f.size, err = handle.Size(); err != nil {
			return err
		}
		j.diskBytes += f.size
		j.nextName = max(j.nextName, n+1)
	}
	return nil
}
