package journal_test

import (
	"encoding/binary"
	"hash/crc32"
	"runtime"
	"testing"

	"varve.dev/tiering/journal"
	"varve.dev/tiering/journal/journaltest"
)

// Places in a file, as the package's comment has them.
const (
	headerCopy, headerSum  = 4096, 84
	dataStart, saltAt      = 8192, 80
	frameHeader, batchHead = journal.HeaderSize, 21
)

// forge puts foreign bytes into the header of the nth frame of a file, or of the file itself where n is negative, with the
// sum that they need to be believed.
func forge(file []byte, n int, header []byte) {
	table := crc32.MakeTable(crc32.Castagnoli)
	if n < 0 {
		copy(file[8:headerSum], header) // behind the magic
		binary.BigEndian.PutUint32(file[headerSum:], crc32.Checksum(file[:headerSum], table))
		copy(file[headerCopy:], file[:headerSum+4])
		return
	}
	at := dataStart
	for ; n > 0; n-- {
		at += journal.FrameSize(int(binary.BigEndian.Uint32(file[at+4:])))
		if at+frameHeader+batchHead > len(file) || binary.BigEndian.Uint32(file[at:]) == 0 {
			at = dataStart
		}
	}
	frame := file[at:]
	copy(frame[4:frameHeader], header)
	covered := frameHeader + int(min(binary.BigEndian.Uint32(frame[4:]), batchHead))
	binary.BigEndian.PutUint32(frame, crc32.Update(binary.BigEndian.Uint32(file[saltAt:]), table, frame[4:covered]))
}

// maxRecovered bounds what a recovery of files of a few KiB allocates, the disk of the test included.
const maxRecovered = 16 << 20

// FuzzForged gives Recover headers of frames and of files that are foreign, and whose sums are right.
func FuzzForged(f *testing.F) {
	d, logs := crashed(f, 17)
	first := d.Bytes(logs[0])
	f.Add(0, 0, []byte{}, int64(0))
	f.Add(0, 1, first[dataStart+4:dataStart+frameHeader], int64(100))
	f.Add(0, 1, []byte{0x07, 0xff, 0xff, 0xff}, int64(0))
	f.Add(1, -1, first[8:headerSum], int64(0))
	f.Add(0, -1, []byte{0, 1, 0, 1}, int64(1<<40))
	f.Fuzz(func(t *testing.T, log, n int, header []byte, row int64) {
		if log < 0 || log >= len(logs) || n < -1 || n > 5 || len(header) > headerSum {
			return
		}
		c := d.Clone()
		file := c.Bytes(logs[log])
		forge(file, n, header)
		c.Put(logs[log], file)
		limit := uint64(maxRecovered)
		got := recoveredWith(t, c.Clone(), row)
		for again := 0; again < 3 && got > limit; again++ { // the fuzzer allocates, too
			got = min(got, recoveredWith(t, c.Clone(), row))
		}
		if got > limit {
			t.Errorf("a recovery allocated %d bytes, want at most %d", got, limit)
		}
	})
}

// recoveredWith recovers, goes on where it may, and answers what that allocated. What was recovered once must come back.
func recoveredWith(t *testing.T, d *journaltest.Disk, row int64) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	frames := 0
	count := func(journal.Frame) error { frames++; return nil }
	j, err := journal.Open(dir, small(d))
	if err != nil {
		return 0
	}
	report, err := j.Recover(row, count)
	runtime.ReadMemStats(&after)
	used := after.TotalAlloc - before.TotalAlloc
	if err != nil {
		return used
	}
	f := frameOf(newRand(18), report.LastWindow+1, 100)
	if j.Write(f.Window, chunkOf(f)) != nil || j.Sync() != nil {
		return used
	}
	position, want := j.SyncedPosition(), frames+1
	d.CrashAfter(0)
	if j, err = journal.Open(dir, small(d)); err != nil {
		t.Fatal(err)
	}
	frames = 0
	if _, err = j.Recover(position, count); err != nil || frames != want {
		t.Fatalf("the second recovery found %d frames, want %d: %v", frames, want, err)
	}
	return used
}
