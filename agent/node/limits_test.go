package node

import (
	"bytes"
	"fmt"
	"log/slog"
	"sort"
	"strings"
	"syscall"
	"testing"

	"varve.dev/agent/config"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/journal"
)

func TestTooFewFilesAreToldOf(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur > 1<<40 {
		t.Skip("this process may open any number of files")
	}
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	openFiles(int64(limit.Cur)-ownFiles, log)
	if out.Len() > 0 {
		t.Errorf("it said %s, want nothing", &out)
	}
	openFiles(int64(limit.Cur)-ownFiles+1, log)
	for _, want := range []string{"level=WARN", "raise the limit", fmt.Sprint("limit=", limit.Cur), fmt.Sprint("want=", limit.Cur+1)} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it said %q, want %q in it", &out, want)
		}
	}
}

// What the table of settings allows is what works: each setting at its limits is taken by what it is for.
func TestSettingsAtTheirLimitsWork(t *testing.T) {
	max := func(name string) int64 {
		k, ok := config.AgentKey(name)
		if !ok {
			t.Fatalf("no key %s", name)
		}
		return k.Max
	}
	for _, set := range []string{fmt.Sprint("flush.bytes=", max("flush.bytes")), fmt.Sprint("flush.inflight=", max("flush.inflight")),
		fmt.Sprint("seal.object.bytes=", max("seal.object.bytes"))} {
		newWorld(t, nil).start(set, "produce.buffer.bytes=268435456").stop()
	}
	if got := max("flush.inflight"); got != flush.MaxInFlight {
		t.Errorf("flush.inflight goes up to %d, and %d are used", got, flush.MaxInFlight)
	}
	for _, file := range []int64{1 << 20, 1<<20 + 1, 3 << 20} {
		least := 2*file + int64(sort.Search(int(file), func(more int) bool {
			_, err := config.Load(nil, nil, []string{fmt.Sprint("journal.file.bytes=", file), fmt.Sprint("journal.bytes=", 2*file+int64(more))})
			return err == nil
		}))
		j, err := journal.Open(t.TempDir(), journal.Config{MaxBytes: least, FileBytes: file})
		if err != nil {
			t.Errorf("journal.bytes=%d is allowed with files of %d: %v", least, file, err)
			continue
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
		if j, err := journal.Open(t.TempDir(), journal.Config{MaxBytes: least - 1, FileBytes: file}); err == nil {
			j.Close()
			t.Errorf("journal.bytes=%d would work with files of %d, and is not allowed", least-1, file)
		}
	}
}
