package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// edit changes one place of the product; old stands there exactly once.
type edit struct{ file, old, new string }

// bug is a mistake that somebody could make. It is planted by a world that lies, or by building the simulator over changed
// sources; the sources themselves stay as they are.
type bug struct {
	name  string
	lies  bool // the world tells it instead: nothing is built
	cheap bool // found within a few seeds: CI plants it
	seed  int  // that finds it in a second: every run plants it; 0: none that is known
	edits []edit
}

var bugs = []bug{
	{name: lieCommitted, lies: true, cheap: true, seed: 2},
	{name: lieSynced, lies: true, cheap: true, seed: 2},
	{name: lieIDs, lies: true, cheap: true, seed: 2},
	{name: lieStored, lies: true, cheap: true},
	{name: lieTrimmed, lies: true, cheap: true},
	{name: lieGroups, lies: true, cheap: true},
	{name: lieAsked, lies: true, cheap: true},
	{name: lieFenced, lies: true},
	{name: "a commit does not ask for the session", edits: []edit{{"metadata/sqlmeta/commit.go",
		"WHERE agent=$1 AND epoch=$2 AND seq=$3 AND live`", "WHERE agent=$1 AND $2=$2 AND $3=$3`"}}},
	{name: "the object's row goes in though the session matched nothing", edits: []edit{
		{"metadata/sqlmeta/commit.go", "\terr := s.db.Write(ctx, func(tx Tx) error {\n\t\tn, err := tx.Exec(Stmt{\n\t\t\tSQL: `UPDATE sessions SET seq=$4",
			"\tvar lost error\n\terr := s.db.Write(ctx, func(tx Tx) error {\n\t\tn, err := tx.Exec(Stmt{\n\t\t\tSQL: `UPDATE sessions SET seq=$4"},
		{"metadata/sqlmeta/commit.go", "\t\t\treturn whyNot(tx, me, c.From)\n", "\t\t\tlost = whyNot(tx, me, c.From)\n"},
		{"metadata/sqlmeta/commit.go", "\treturn CommitError(me, c, err)\n", "\tif err == nil {\n\t\terr = lost\n\t}\n\treturn CommitError(me, c, err)\n"}}},
	// Of one agent's sealings only a late copy finds other inputs, and of that the intents are gone too: both must be unasked.
	{name: "a seal does not ask for its inputs", edits: []edit{
		{"metadata/sqlmeta/replace.go", "\tif !slices.Equal(keys, p.Keys) {\n", "\tif false && !slices.Equal(keys, p.Keys) {\n"},
		{"metadata/sqlmeta/replace.go", "\tif n != len(keys) {\n", "\tif false && n != len(keys) {\n"}}},
	// The agent decides, and the statement that acquires asks once more.
	{name: "any disk may take the tail", edits: []edit{
		{"agent/session/claim.go", "\treturn row.TailJournal == (metadata.UUID{}) || row.TailJournal == c.journal\n", "\treturn true\n"},
		{"metadata/sqlmeta/leases.go", "AND (p.tail_journal=$3 OR p.tail_journal=$4 OR r.un)", "AND (p.tail_journal=$3 OR p.tail_journal=$4 OR r.un OR true)"}}},
	{name: "an older offset comes over a newer one", edits: []edit{{"metadata/sqlmeta/groups.go",
		"lease_epoch=excluded.lease_epoch, counter=excluded.counter\n\t\t\t\tWHERE (g.lease_epoch, g.counter) < (excluded.lease_epoch, excluded.counter)`\n)",
		"lease_epoch=excluded.lease_epoch, counter=excluded.counter`\n)"}}},
	{name: "the high watermark runs ahead of the commit", edits: []edit{{"tiering/partition/partition.go",
		"\tp.end = b.End()\n", "\tp.end = b.End()\n\tp.hw = p.end\n"}}},
	{name: "an unknown commit is sent again blindly", edits: []edit{{"tiering/flush/numbers.go", "\t\treturn Again\n\t}\n\treturn Ask\n", "\t\treturn Again\n\t}\n\treturn Again\n"}}},
	{name: "an unknown commit is taken for done", cheap: true, edits: []edit{{"tiering/flush/numbers.go", "\t\treturn Again\n\t}\n\treturn Ask\n", "\t\treturn Again\n\t}\n\treturn Done\n"}}},
	{name: "keys are used again by the next life", edits: []edit{{"agent/node/open.go",
		"\treturn key(\"wal\", s, ", "\ts.Nonce = uint64(s.Agent)\n\treturn key(\"wal\", s, "}}},
	{name: "a torn tail is accepted", edits: []edit{
		{"tiering/journal/recover.go", "\t\tif !ok || !bodyWhole(batch) {\n", "\t\tif _ = batch; !ok {\n"},
		{"tiering/journal/recover.go", "if !ok || !bodyWhole(batch) || at", "if !ok || at"}}},
	{name: "frames that were cut come back", edits: []edit{{"tiering/journal/recover.go", "chain(r.runs, r.cuts, ", "chain(r.runs, nil, "}}},
	{name: "the journal is recycled before the commit", edits: []edit{{"tiering/flush/run.go",
		"Tries: try + 1, Directory: im.Bytes()}}\n\tb.mu.Unlock()\n",
		"Tries: try + 1, Directory: im.Bytes()}}\n\tb.mu.Unlock()\n\t_ = b.journal.Release(w.serial)\n"}}},
	{name: "a tail is taken whatever has happened meanwhile", edits: []edit{{"agent/session/claim.go",
		"\tcase epoch != partition.EpochAt(row.Epochs, max(base, row.LogStart)):\n", "\tcase false:\n"}}},
	{name: "checksums of blocks are ignored", cheap: true, edits: []edit{{"objectstore/cache/view.go",
		"o.Blocks.Sums[i]; got != want {", "o.Blocks.Sums[i]; false && got != want {"}}},
	{name: "a body that was cut is accepted", edits: []edit{
		{"objectstore/retry.go", "error { return r.next.ReadAt(ctx, key, dst, off) })",
			"error {\n\t\terr := r.next.ReadAt(ctx, key, dst, off)\n\t\tif errors.Is(err, io.ErrUnexpectedEOF) {\n\t\t\treturn nil\n\t\t}\n\t\treturn err\n\t})"},
		{"objectstore/retry.go", "\t\"iter\"\n", "\t\"io\"\n\t\"iter\"\n"},
		{"objectstore/cache/view.go", "o.Blocks.Sums[i]; got != want {", "o.Blocks.Sums[i]; false && got != want {"}}},
	{name: "one batch of a producer is remembered", cheap: true, edits: []edit{{"tiering/partition/producers.go", "const window = 5", "const window = 1"}}},
	{name: "producers are forgotten by a restart", cheap: true, edits: []edit{{"tiering/partition/producers.go",
		"known == nil || e.LastOffset", "false && e.LastOffset"}}},
	{name: "a trim forgets producers", cheap: true, edits: []edit{{"metadata/sqlmeta/trim.go", "p := t.Producers; p != nil {", "p := t.Producers; false && p != nil {"}}},
	{name: "a duplicate is answered before its original", cheap: true, edits: []edit{{"tiering/partition/partition.go",
		"\tif end > reached && w != nil {", "\treached = end\n\tif end > reached && w != nil {"}}},
	{name: "the log start is what lies on local disk", cheap: true, edits: []edit{{"tiering/partition/partition.go",
		"cfg: cfg, logStart: s.LogStart,", "cfg: cfg, logStart: s.Sealed,"}}},
	{name: "a restart keeps the epoch", edits: []edit{{"metadata/sqlmeta/sessions.go",
		"me.Epoch, before = last.epoch+1, ", "me.Epoch, before = last.epoch, "}}},
	{name: "the seal goes past the committed end", edits: []edit{{"tiering/seal/merge.go",
		"Base: sh.base, End: sh.end})", "Base: sh.base, End: sh.end + 1})"}}},
	{name: "a definite error comes after the append", cheap: true, edits: []edit{{"agent/broker/00_produce.go",
		"\t\t\tp.slots[i].code = kerr.RequestTimedOut.Code\n", "\t\t\tp.slots[i].code = kerr.NotLeaderForPartition.Code\n"}}},
	{name: "garbage is known by age only", edits: []edit{
		{"tiering/flush/flush.go", "\tfor n := seq + 1; n <=", "\tfor n := max(1, seq-8); n <="},
		{"metadata/sqlmeta/sessions.go", "\t\tif !held[key] {\n", "\t\tif true || !held[key] {\n"}}},
	{name: "garbage goes without a grace", edits: []edit{{"metadata/sqlmeta/garbage.go", "WHERE not_before <= {now} ORDER", "WHERE not_before <= {now} + 3600000000 ORDER"}}},
	{name: "an old generation commits offsets", edits: []edit{{"agent/group/offsets.go",
		"\tif in.Generation != g.generation {", "\tif false && in.Generation != g.generation {"}}},
}

// TestEveryBugCanBePlanted holds the table to the sources: each place is there, once; in a long run, what comes of it
// compiles.
func TestEveryBugCanBePlanted(t *testing.T) {
	root := sources(t)
	long := number(t, "VARVE_SIM", 0) >= enough
	for _, b := range bugs {
		overlay, err := b.plant(root, t.TempDir())
		if err == nil && long && !b.lies {
			err = b.compile(t.Context(), root, overlay)
		}
		if err != nil {
			t.Errorf("%q cannot be planted any more; say in bugs where it goes now: %v", b.name, err)
		}
	}
}

// compile compiles the packages that the bug changes.
func (b *bug) compile(ctx context.Context, root, overlay string) error {
	args := []string{"build", "-overlay", overlay}
	for _, e := range b.edits {
		args = append(args, "./"+path.Dir(e.file))
	}
	build := exec.CommandContext(ctx, "go", args...)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// TestPlantedBugs runs seeds over each bug until one fails: at every run over those that a known seed finds at once, in a
// long one over all that are cheap to find, with VARVE_SIM_PLANTED=1 over every one of them, from the first seed on, and
// with VARVE_SIM_PLANTED=epoch over those whose name holds that word.
func TestPlantedBugs(t *testing.T) {
	only := os.Getenv("VARVE_SIM_PLANTED")
	long := number(t, "VARVE_SIM", 0) >= enough
	for _, b := range bugs {
		run := b.seed > 0 && !testing.Short() || b.cheap && long
		if only != "" {
			run = only == "1" || strings.Contains(b.name, only)
		}
		if run {
			t.Run(b.name, func(t *testing.T) { b.hunt(t, only != "") })
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
		source := filepath.Join(root, filepath.FromSlash(e.file))
		from := source
		if changed[source] != "" {
			from = changed[source]
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
		changed[source] = to
	}
	overlay = filepath.Join(dir, "overlay.json")
	raw, err := json.Marshal(map[string]any{"Replace": changed})
	if err != nil {
		return "", err
	}
	return overlay, os.WriteFile(overlay, raw, 0o600)
}

// withinSeeds is the seeds after which a bug must be found.
const withinSeeds = 1000

var failing = regexp.MustCompile(`seed (\d+) (?:fails|is stuck)`)

// hunt runs seeds until one fails: from the one that is known to, or from the first.
func (b *bug) hunt(t *testing.T, whole bool) {
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if !b.lies {
		program = filepath.Join(dir, "sim.test")
		b.build(t, dir, program)
	}
	from, n := 1, withinSeeds
	if !whole && b.seed > 0 {
		from, n = b.seed, withinSeeds-b.seed+1
	}
	began := time.Now()
	out, failed := b.run(t, program, from, n)
	if !failed {
		t.Fatalf("no seed from %d to %d found it", from, from+n-1)
	}
	m := failing.FindSubmatch(out)
	if m == nil {
		t.Fatalf("seeds from %d on ended without a verdict:\n%s", from, out[max(0, len(out)-2000):])
	}
	t.Logf("found at seed %s, after %s\n%s", m[1], time.Since(began).Round(time.Second), excerpt(out))
}

// build builds the simulator over the bug.
func (b *bug) build(t *testing.T, dir, program string) {
	root := sources(t)
	overlay, err := b.plant(root, dir)
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-ldflags=-s -w", "-overlay", overlay, "-o", program, "varve.dev/localstack/sim")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
}

// run runs n seeds in a process that ends at the first verdict.
func (b *bug) run(t *testing.T, program string, from, n int) (out []byte, failed bool) {
	cmd := exec.CommandContext(t.Context(), program, "-test.run", "^TestSchedules$", "-test.timeout", "2h")
	cmd.Env = append(os.Environ(), "VARVE_SIM="+strconv.Itoa(n), "VARVE_SIM_FROM="+strconv.Itoa(from), "VARVE_SIM_PLANTED=", "VARVE_SIM_SEED=",
		huntName+"=1", scratchName+"="+scratch(t))
	if b.lies {
		cmd.Env = append(cmd.Env, lieName+"="+b.name)
	}
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	return out, err != nil
}

// excerpt is the first lines that say what was wrong.
func excerpt(out []byte) string {
	var kept []string
	for line := range strings.SplitSeq(string(out), "\n") {
		if line = strings.TrimSpace(line); failing.MatchString(line) || strings.HasPrefix(line, "panic:") {
			kept = append(kept, line[:min(len(line), 300)])
		}
		if len(kept) == 4 {
			break
		}
	}
	return strings.Join(kept, "\n")
}
