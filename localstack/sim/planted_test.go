package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// edit changes one place of the product; old stands there exactly once.
type edit struct{ file, old, new string }

// bug is a mistake that somebody could make. It is planted by building the simulator over changed sources; the sources
// themselves stay as they are.
type bug struct {
	name  string
	cheap bool // found within a few seeds: CI plants it
	edits []edit
}

var bugs = []bug{
	{"acknowledged before the commit", true, []edit{{"tiering/flush/run.go",
		"Tries: try + 1, Directory: im.Bytes()}}\n\tb.mu.Unlock()\n",
		"Tries: try + 1, Directory: im.Bytes()}}\n\tcalls := w.take(0, len(w.entries), Stored)\n\tb.mu.Unlock()\n\ttell(calls, nil)\n"}}},
	{"acknowledged before the fsync", true, []edit{{"tiering/flush/sync.go",
		"\tif err := b.journal.Sync(); err != nil {\n\t\treturn err\n\t}\n", "\tgo b.journal.Sync()\n"}}},
	{"the high watermark runs ahead of the commit", false, []edit{{"tiering/partition/partition.go",
		"\tp.end = b.End()\n", "\tp.end = b.End()\n\tp.hw = p.end\n"}}},
	{"an unknown commit is sent again blindly", false, []edit{{"tiering/flush/numbers.go", "\t\treturn Again\n\t}\n\treturn Ask\n", "\t\treturn Again\n\t}\n\treturn Again\n"}}},
	{"an unknown commit is taken for done", false, []edit{{"tiering/flush/numbers.go", "\t\treturn Again\n\t}\n\treturn Ask\n", "\t\treturn Again\n\t}\n\treturn Done\n"}}},
	{"a fenced commit is taken for done", false, []edit{{"tiering/flush/numbers.go",
		"\tcase errors.Is(err, metadata.ErrFenced):\n\t\treturn Over\n", "\tcase errors.Is(err, metadata.ErrFenced):\n\t\treturn Done\n"}}},
	{"keys are used again by the next life", false, []edit{{"agent/node/open.go",
		"\treturn key(\"wal\", s, ", "\ts.Nonce = uint64(s.Agent)\n\treturn key(\"wal\", s, "}}},
	{"a torn tail is accepted", false, []edit{
		{"tiering/journal/recover.go", "\t\tif !ok || !bodyWhole(batch) {\n", "\t\tif !ok {\n"},
		{"tiering/journal/recover.go", "if !ok || !bodyWhole(batch) || at", "if !ok || at"}}},
	{"frames that were cut come back", false, []edit{{"tiering/journal/recover.go", "chain(r.runs, r.cuts, ", "chain(r.runs, nil, "}}},
	{"the journal is recycled before the commit", false, []edit{{"tiering/flush/run.go",
		"Tries: try + 1, Directory: im.Bytes()}}\n\tb.mu.Unlock()\n",
		"Tries: try + 1, Directory: im.Bytes()}}\n\tb.mu.Unlock()\n\t_ = b.journal.Release(w.serial)\n"}}},
	{"a tail is taken whatever has happened meanwhile", false, []edit{{"agent/session/claim.go",
		"\tcase epoch != partition.EpochAt(row.Epochs, max(base, row.LogStart)):\n", "\tcase false:\n"}}},
	{"checksums of blocks are ignored", true, []edit{{"objectstore/cache/view.go",
		"o.Blocks.Sums[i]; got != want {", "o.Blocks.Sums[i]; false && got != want {"}}},
	{"a body that was cut is accepted", false, []edit{
		{"objectstore/retry.go", "error { return r.next.ReadAt(ctx, key, dst, off) })",
			"error {\n\t\terr := r.next.ReadAt(ctx, key, dst, off)\n\t\tif errors.Is(err, io.ErrUnexpectedEOF) {\n\t\t\treturn nil\n\t\t}\n\t\treturn err\n\t})"},
		{"objectstore/retry.go", "\t\"iter\"\n", "\t\"io\"\n\t\"iter\"\n"},
		{"objectstore/cache/view.go", "o.Blocks.Sums[i]; got != want {", "o.Blocks.Sums[i]; false && got != want {"}}},
	{"one batch of a producer is remembered", true, []edit{{"tiering/partition/producers.go", "const window = 5", "const window = 1"}}},
	{"producers are forgotten by a restart", true, []edit{{"tiering/partition/producers.go",
		"known == nil || e.LastOffset", "false && e.LastOffset"}}},
	{"a duplicate is answered before its original", false, []edit{{"tiering/partition/partition.go",
		"\tif end > reached && w != nil {", "\treached = end\n\tif end > reached && w != nil {"}}},
	{"the log start is what lies on local disk", true, []edit{{"tiering/partition/partition.go",
		"cfg: cfg, logStart: s.LogStart,", "cfg: cfg, logStart: s.Sealed,"}}},
	{"a restart keeps the epoch", false, []edit{{"metadata/sqlmeta/sessions.go",
		"me.Epoch, before = last.epoch+1, ", "me.Epoch, before = last.epoch, "}}},
	{"the seal goes past the committed end", false, []edit{{"tiering/seal/merge.go",
		"Base: sh.base, End: sh.end})", "Base: sh.base, End: sh.end + 1})"}}},
	{"a definite error comes after the append", true, []edit{{"agent/broker/00_produce.go",
		"\t\t\tp.slots[i].code = kerr.RequestTimedOut.Code\n", "\t\t\tp.slots[i].code = kerr.NotLeaderForPartition.Code\n"}}},
	{"garbage is known by age only", false, []edit{
		{"tiering/flush/flush.go", "\tfor n := seq + 1; n <=", "\tfor n := max(1, seq-8); n <="},
		{"metadata/sqlmeta/sessions.go", "\t\tif !held[key] {\n", "\t\tif true || !held[key] {\n"}}},
	{"garbage goes without a grace", false, []edit{{"metadata/sqlmeta/garbage.go", "WHERE not_before <= {now} ORDER", "WHERE not_before <= {now} + 3600000000 ORDER"}}},
	{"an old generation commits offsets", false, []edit{{"agent/group/offsets.go",
		"\tif in.Generation != g.generation {", "\tif false && in.Generation != g.generation {"}}},
}

// TestEveryBugCanBePlanted holds the table to the sources: each place is there, once.
func TestEveryBugCanBePlanted(t *testing.T) {
	root := sources(t)
	for _, b := range bugs {
		if _, err := b.plant(root, t.TempDir()); err != nil {
			t.Errorf("%q cannot be planted any more; say in bugs where it goes now: %v", b.name, err)
		}
	}
}

// TestPlantedBugs builds the simulator over each bug and wants some seed to fail. VARVE_SIM_PLANTED=1 plants all of them,
// a long run the cheap ones, a short one none: each is a build.
func TestPlantedBugs(t *testing.T) {
	all := os.Getenv("VARVE_SIM_PLANTED") != ""
	if !all && number(t, "VARVE_SIM", 0) < enough {
		t.Skip("VARVE_SIM=200 plants some bugs, VARVE_SIM_PLANTED=1 all of them")
	}
	root := sources(t)
	for _, b := range bugs {
		if only := os.Getenv("VARVE_SIM_PLANTED"); b.cheap || only == "1" || all && strings.Contains(b.name, only) {
			t.Run(b.name, func(t *testing.T) { b.hunt(t, root) })
		}
	}
}

func sources(t *testing.T) string {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// plant writes the changed sources, and the overlay that go build takes.
func (b *bug) plant(root, dir string) (overlay string, err error) {
	changed := map[string]string{}
	for _, e := range b.edits {
		path := filepath.Join(root, filepath.FromSlash(e.file))
		from := path
		if changed[path] != "" {
			from = changed[path]
		}
		src, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		if n := strings.Count(string(src), e.old); n != 1 {
			return "", fmt.Errorf("%s holds %q %d times, want once", e.file, e.old, n)
		}
		to := filepath.Join(dir, strings.ReplaceAll(e.file, "/", "_"))
		if err := os.WriteFile(to, []byte(strings.Replace(string(src), e.old, e.new, 1)), 0o600); err != nil {
			return "", err
		}
		changed[path] = to
	}
	overlay = filepath.Join(dir, "overlay.json")
	raw, err := json.Marshal(map[string]any{"Replace": changed})
	if err != nil {
		return "", err
	}
	return overlay, os.WriteFile(overlay, raw, 0o600)
}

const (
	// withinSeeds is the seeds after which a bug must be found.
	withinSeeds = 1000
	// chunk is how many seeds run at a time.
	chunk = 6
)

var failing = regexp.MustCompile(`seed (\d+) (?:fails|is stuck)`)

// hunt runs seeds until one fails.
func (b *bug) hunt(t *testing.T, root string) {
	dir := t.TempDir()
	overlay, err := b.plant(root, dir)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "sim.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", overlay, "-o", program, "varve.dev/localstack/sim")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	began := time.Now()
	for from := 1; from <= withinSeeds; from += chunk {
		out, failed := b.run(t, program, from)
		if !failed {
			continue
		}
		m := failing.FindSubmatch(out)
		if m == nil {
			t.Fatalf("seeds from %d on ended without a verdict:\n%s", from, out[max(0, len(out)-2000):])
		}
		t.Logf("found at seed %s, after %s\n%s", m[1], time.Since(began).Round(time.Second), excerpt(out))
		return
	}
	t.Errorf("no seed of %d found it", withinSeeds)
}

func (b *bug) run(t *testing.T, program string, from int) (out []byte, failed bool) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-test.run", "^TestSchedules$", "-test.failfast", "-test.timeout", "29m")
	cmd.Env = append(os.Environ(), "VARVE_SIM="+strconv.Itoa(chunk), "VARVE_SIM_FROM="+strconv.Itoa(from), "VARVE_SIM_PLANTED=", "VARVE_SIM_SEED=")
	cmd.Dir = filepath.Dir(program)
	out, err := cmd.CombinedOutput()
	return out, err != nil
}

// excerpt is the first lines that say what was wrong.
func excerpt(out []byte) string {
	var kept []string
	for line := range strings.SplitSeq(string(out), "\n") {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "sim_test.go") || strings.HasPrefix(line, "panic:") {
			kept = append(kept, line[:min(len(line), 300)])
		}
		if len(kept) == 4 {
			break
		}
	}
	return strings.Join(kept, "\n")
}
