package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"varve.dev/agent/config"
)

// outcome is what one command did.
type outcome struct {
	code           int
	stdout, stderr string
}

// shell runs commands as a user would, with an environment of its own.
type shell struct {
	t       *testing.T
	environ []string
	run     Runners
	now     time.Time
}

func newShell(t *testing.T) *shell {
	return &shell{t: t, environ: []string{"HOME=" + t.TempDir()}, now: time.Now()}
}

func (s *shell) exec(stdin string, args ...string) outcome {
	return s.execContext(s.t.Context(), stdin, args...)
}

func (s *shell) execContext(ctx context.Context, stdin string, args ...string) outcome {
	var stdout, stderr bytes.Buffer
	in := &invocation{
		ctx: ctx, stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr, environ: s.environ,
		now: func() time.Time { return s.now }, run: s.run,
	}
	code := in.main(args)
	return outcome{code, stdout.String(), stderr.String()}
}

// ok runs a command that must succeed and returns what it printed.
func (s *shell) ok(stdin string, args ...string) string {
	s.t.Helper()
	o := s.exec(stdin, args...)
	if o.code != 0 {
		s.t.Fatalf("varve %s ended with %d: %s", strings.Join(args, " "), o.code, o.stderr)
	}
	return o.stdout
}

// fails runs a command that must end with code and a message that holds want.
func (s *shell) fails(code int, want string, args ...string) {
	s.t.Helper()
	o := s.exec("", args...)
	if o.code != code || !strings.Contains(o.stderr, want) {
		s.t.Errorf("varve %s ended with %d and %q, want %d and %q", strings.Join(args, " "), o.code, o.stderr, code, want)
	}
	if strings.Count(strings.TrimSpace(o.stderr), "\n") > 0 && !strings.Contains(want, "mistakes") {
		s.t.Errorf("varve %s said more than one sentence: %q", strings.Join(args, " "), o.stderr)
	}
}

func fromJSONText[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return v
}

func TestEveryCommandHasAnExample(t *testing.T) {
	s := newShell(t)
	for _, path := range []string{
		"dev", "agent", "topic create", "topic list", "topic describe", "topic alter", "topic delete", "topic elect", "group list",
		"group describe", "group seek", "group delete", "produce", "consume", "storage ls", "storage describe", "storage verify",
		"config page", "config check", "health", "version",
	} {
		help := s.ok("", append(strings.Fields(path), "--help")...)
		command := "varve " + strings.TrimSuffix(path, " page")
		_, example, ok := strings.Cut(help, "Example:")
		if !ok || !strings.Contains(example, command) {
			t.Errorf("the help of %q has no example of it:\n%s", path, help)
		}
	}
	if page := s.ok("", "--help"); !strings.Contains(page, "Exit codes: 0 done, 1 failed, 2 wrong") {
		t.Errorf("the first page does not tell the exit codes:\n%s", page)
	}
}

func TestWrongArgumentsEndWithTwoAndNameTheHelp(t *testing.T) {
	s := newShell(t)
	s.fails(2, "see varve --help", "sing")
	s.fails(2, "see varve topic create --help", "topic", "create")
	s.fails(2, "see varve consume --help", "consume", "x", "--from", "end", "--offset", "3")
	s.fails(2, "--format: %q is unknown", "consume", "x", "-f", "%q")
	s.fails(2, "move the group with varve group seek g", "consume", "x", "--group", "g", "--offset", "1")
	s.fails(2, "--config: got \"x\", want KEY=VALUE", "topic", "create", "t", "--config", "x")
	s.fails(2, "where to?", "group", "seek", "g")
	s.fails(2, "nothing to alter", "topic", "alter", "t")
}

func TestDevChoosesPlacesAndTheUserWins(t *testing.T) {
	s := newShell(t)
	var got *config.Agent
	s.run.Agent = func(_ context.Context, cfg *config.Agent, stdout, _ io.Writer) error {
		got = cfg
		_, err := fmt.Fprintln(stdout, "ready")
		return err
	}
	s.environ = append(s.environ, "VARVE_SEAL_AGE_MS=77")
	dir := filepath.Join(t.TempDir(), "a b")
	out := s.ok("", "dev", "--data", dir, "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0", "--set", "num.partitions=3", "--set", "advertised.listeners=PLAINTEXT://a:1")
	if out != "ready\n" {
		t.Errorf("printed %q", out)
	}
	for name, want := range map[string]string{
		"data.dir": filepath.Join(dir, "local"), "metadata.url": "sqlite:" + filepath.Join(dir, "metadata.db"),
		"store.url": "file://" + strings.ReplaceAll(dir, " ", "%20") + "/objects", "listeners": "PLAINTEXT://127.0.0.1:0",
		"http.listen": "127.0.0.1:0", "num.partitions": "3", "seal.age.ms": "77", "group.initial.rebalance.delay.ms": "0",
		"advertised.listeners": "PLAINTEXT://a:1",
	} {
		if got.String(name) != want {
			t.Errorf("%s is %q, want %q", name, got.String(name), want)
		}
	}
	s.ok("", "dev")
	home := strings.TrimPrefix(s.environ[0], "HOME=")
	if want := filepath.Join(home, ".local/share/varve/local"); got.String("data.dir") != want {
		t.Errorf("without --data the folder is %s, want %s", got.String("data.dir"), want)
	}
	s.fails(2, "num.partitions: got \"x\"", "dev", "--set", "num.partitions=x")
}

func TestAgentTakesItsFile(t *testing.T) {
	s := newShell(t)
	s.run.Agent = func(_ context.Context, cfg *config.Agent, _, _ io.Writer) error {
		return fmt.Errorf("cannot reach %s", cfg.String("store.url"))
	}
	file := filepath.Join(t.TempDir(), "agent.conf")
	if err := os.WriteFile(file, []byte("store.url=s3://bucket/p\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.fails(1, "varve: cannot reach s3://bucket/p", "agent", "--config", file)
	s.fails(1, "varve: cannot reach memory:", "agent", "--config", file, "--set", "store.url=memory:")
	s.fails(2, "no such file", "agent", "--config", file+"x")
}

func TestConfigCheckFindsEveryMistake(t *testing.T) {
	s := newShell(t)
	file := filepath.Join(t.TempDir(), "agent.conf")
	if err := os.WriteFile(file, []byte("flush.byte=3\nseal.bytes=-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.fails(2, "2 mistakes in the configuration:\n  "+file+` line 1: unknown key "flush.byte"; did you mean flush.bytes?`, "config", "check", file)
	if err := os.WriteFile(file, []byte("flush.bytes=8388608\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := s.ok("", "config", "check", file); got != file+" is valid\n" {
		t.Errorf("printed %q", got)
	}
}

func TestConfigPrintsTheTable(t *testing.T) {
	s := newShell(t)
	if page := s.ok("", "config"); !strings.Contains(page, "flush.interval.ms") || !strings.Contains(page, "varve.durability") {
		t.Errorf("the page is\n%s", page)
	}
	if entries := fromJSONText[[]config.Entry](t, s.ok("", "config", "--json")); len(entries) < 80 {
		t.Errorf("JSON has %d keys", len(entries))
	}
}

func TestStorageIsHandedToItsRunner(t *testing.T) {
	s := newShell(t)
	var what string
	var got StorageArgs
	s.run.Storage = func(_ context.Context, cfg *config.Agent, w string, args StorageArgs, _ io.Writer) error {
		what, got = w, args
		return nil
	}
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		what string
		want StorageArgs
	}{
		{[]string{"storage", "ls", "--data", dir, "--json"}, "ls", StorageArgs{Partition: -1, JSON: true}},
		{[]string{"storage", "describe", "t", "--partition", "2", "--data", dir}, "describe", StorageArgs{Topic: "t", Partition: 2}},
		{[]string{"storage", "verify", "--bytes", "--data", dir}, "verify", StorageArgs{Partition: -1, Bytes: true}},
	} {
		s.ok("", c.args...)
		if what != c.what || got != c.want {
			t.Errorf("%v ran %s with %+v, want %s with %+v", c.args, what, got, c.what, c.want)
		}
	}
	s.fails(2, "exclude each other", "storage", "ls", "--data", dir, "--config", "x")
}

type coded struct{ error }

func (coded) ExitCode() int { return 7 }

func TestARunnersExitCodeIsTheProcesss(t *testing.T) {
	s := newShell(t)
	s.run.Agent = func(context.Context, *config.Agent, io.Writer, io.Writer) error {
		return fmt.Errorf("stop: %w", coded{errors.New("fenced")})
	}
	s.fails(7, "stop: fenced", "dev", "--data", t.TempDir())
}

func TestHealthTellsReadyFromNot(t *testing.T) {
	ready := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" && !ready {
			http.Error(w, "the object store does not answer", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}))
	defer server.Close()
	s := newShell(t)
	address := strings.TrimPrefix(server.URL, "http://")
	if got := s.ok("", "health", "--http", address); got != "ok\n" {
		t.Errorf("printed %q", got)
	}
	ready = false
	s.fails(1, "not ready: the object store does not answer", "health", "--http", address)
	s.environ = append(s.environ, "VARVE_HTTP_LISTEN="+address)
	s.ok("", "health", "--live")
	server.Close()
	s.fails(1, "no agent answers at "+address, "health")
}

func TestVersionNamesTheToolchain(t *testing.T) {
	s := newShell(t)
	v := fromJSONText[versionInfo](t, s.ok("", "version", "--json"))
	if !strings.HasPrefix(v.Go, "go1.") || v.Version == "" {
		t.Errorf("version is %+v", v)
	}
	if line := s.ok("", "version"); !strings.HasPrefix(line, "varve "+v.Version) {
		t.Errorf("printed %q", line)
	}
}

func TestTimes(t *testing.T) {
	now := time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-01-30T08:00:00Z": now.Add(-24 * time.Hour), "-1h30m": now.Add(-90 * time.Minute), "-2d": now.Add(-48 * time.Hour),
		"1700000000123": time.UnixMilli(1700000000123),
	} {
		got, err := parseTime(text, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("%s is %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "yesterday", "-", "-d", "1h", "2026-01-30"} {
		if _, err := parseTime(text, now); err == nil {
			t.Errorf("%q was taken for a time", text)
		}
	}
}

func TestSizesForPeople(t *testing.T) {
	got := []string{size(0), size(1023), size(1024), size(5 << 30), count(1, "record"), count(2, "record")}
	want := []string{"0 B", "1023 B", "1.0 KiB", "5.0 GiB", "1 record", "2 records"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
