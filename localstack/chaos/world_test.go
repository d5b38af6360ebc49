package chaos

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"varve.dev/localstack/pgserver/pgtest"
	"varve.dev/localstack/s3server/s3test"
)

// world is where one agent lives: its folder, its stores, and the address that it keeps over restarts.
type world struct {
	program  string
	settings []string // key=value: who and where it is
	kafka    string
	proof    []string // settings under which index and bucket are compared, where they are others
}

// quick are settings under which everything happens all the time.
func quick() []string {
	return []string{
		"seal.age.ms=500", "seal.extent.min.bytes=1", "seal.check.interval.ms=50",
		"gc.interval.ms=100", "gc.grace.ms=2000", "gc.orphan.grace.ms=1000", "log.retention.check.interval.ms=200",
		"catalog.poll.ms=100", "session.beat.ms=200", "group.initial.rebalance.delay.ms=0", "group.min.session.timeout.ms=1000",
		"auto.create.topics.enable=false", "journal.file.bytes=1048576",
	}
}

// embedded is SQLite and a directory.
func embedded(t *testing.T, program string) *world {
	dir := t.TempDir()
	return &world{program: program, kafka: freeAddress(t), settings: append(quick(),
		"data.dir="+filepath.Join(dir, "local"), "metadata.url=sqlite:"+filepath.Join(dir, "metadata.db"),
		"store.url="+(&url.URL{Scheme: "file", Path: filepath.Join(dir, "objects")}).String())}
}

// cluster is PostgreSQL and an S3 server; it skips where they are not wanted.
func cluster(t *testing.T, program string, pg *pgtest.Shared, driver string) *world {
	database := pg.Database(t)
	s3 := s3test.Start(t)
	// The test's own server runs without fsync: no power is cut here.
	t.Setenv("VARVE_TEST_FSYNC_OFF", "1")
	query := url.Values{"endpoint": {s3.Endpoint}, "region": {s3.Region}, "path-style": {"true"}}
	store := url.URL{Scheme: driver, Host: s3.Bucket, Path: fmt.Sprintf("/chaos-%d", time.Now().UnixNano()), RawQuery: query.Encode()}
	return &world{program: program, kafka: freeAddress(t), settings: append(quick(),
		"data.dir="+filepath.Join(t.TempDir(), "local"), "metadata.url="+database, "store.url="+store.String())}
}

// with is the same world with some keys set otherwise.
func (w *world) with(settings ...string) *world {
	other := *w
	other.settings = append(append([]string(nil), w.settings...), settings...)
	return &other
}

// get answers a key's value.
func (w *world) get(key string) (value string) {
	for _, s := range w.settings {
		if v, ok := strings.CutPrefix(s, key+"="); ok {
			value = v
		}
	}
	return value
}

func (w *world) args() []string {
	args := []string{"agent", "--set", "listeners=PLAINTEXT://" + w.kafka, "--set", "http.listen=127.0.0.1:0"}
	for _, s := range w.settings {
		args = append(args, "--set", s)
	}
	return args
}

func (w *world) start() (*process, error) { return start(w.program, nil, w.args()...) }

// mustStart is for tests that do not kill it by surprise.
func (w *world) mustStart(t *testing.T) *process {
	t.Helper()
	p, err := w.start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// cli runs a subcommand that talks to the agent.
func (w *world) cli(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), w.program, args...)
	cmd.Env = append(os.Environ(), "VARVE_BROKERS="+w.kafka)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// verify proves that index and bucket agree, while no agent runs.
func (w *world) verify(t *testing.T) (string, error) {
	t.Helper()
	args := []string{"storage", "verify", "--bytes"}
	for _, s := range slices.Concat(w.settings, w.proof) {
		args = append(args, "--set", s)
	}
	return w.cli(t, args...)
}

// mood are settings that an agent may wake up with: small and large bounds, so that every path is taken.
func mood(rng *rand.Rand) []string {
	pick := func(key string, values ...string) string { return key + "=" + values[rng.IntN(len(values))] }
	return []string{
		pick("flush.interval.ms", "1", "5", "20", "100"), pick("flush.bytes", "65536", "1048576"), pick("flush.inflight", "1", "2", "8"),
		pick("journal.bytes", "4194304", "67108864"), pick("produce.buffer.bytes", "1048576", "268435456"),
		pick("cache.memory.bytes", "1048576", "536870912"), pick("cache.disk.bytes", "0", "4194304", "1073741824"),
		pick("cache.disk.free.bytes", "0", "1073741824"), pick("seal.objects", "2", "16", "2048"), pick("seal.object.bytes", "1048576", "268435456"),
		pick("fetch.readahead.bytes", "0", "33554432", "134217728"), pick("fetch.cold.concurrency", "2", "64"),
	}
}
