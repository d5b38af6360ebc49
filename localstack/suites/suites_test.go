package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEveryListIsWellFormed(t *testing.T) {
	for _, s := range suites {
		l, err := readList(s.name)
		if err != nil {
			t.Error(err)
			continue
		}
		if len(l.names(pass)) == 0 {
			t.Errorf("%s.list holds nothing that passes", s.name)
		}
		text, err := lists.ReadFile(s.name + ".list")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(l.String(), string(text)); diff != "" {
			t.Errorf("%s.list is not as -update writes it (-want +got):\n%s", s.name, diff)
		}
		for _, v := range []verdict{pass, slow, skip} {
			for _, name := range l.names(v) {
				if strings.Count(name, "/") >= s.depth && v != skip {
					t.Errorf("%s.list names %s, deeper than %d", s.name, name, s.depth)
				}
			}
		}
	}
}

func TestMistakesInAListAreFound(t *testing.T) {
	for text, want := range map[string]string{
		"TestA":                  "line 1: got",
		"fail TestA":             "line 1: got",
		"pass TestA\nslow TestA": "line 2: TestA stands here twice",
		"\nskip TestA":           "line 2: TestA does not apply, but there is no reason",
		"pass TestA sometimes":   "no more than the name",
	} {
		if _, err := parseList(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestPatternsNameTestsAsGoTestDoes(t *testing.T) {
	got := pattern([]string{"TestA", "TestB/sub_1/x"})
	if want := "^TestA$|^TestB$/^sub_1$/^x$"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestARunIsHeldToItsList(t *testing.T) {
	l, err := parseList("pass TestGood\npass TestBroken\npass TestGone\npass TestShy\nslow TestSlow\nskip TestTxn transactions\nskip TestOld gone\nskip TestGood/txn transactions")
	if err != nil {
		t.Fatal(err)
	}
	r := results{byTest: map[string]result{}, known: []string{"TestGood", "TestBroken", "TestShy", "TestSlow", "TestTxn", "TestNew", "TestWorse"}}
	for test, action := range map[string]string{"TestGood": "pass", "TestGood/deep": "pass", "TestGood/bad": "fail", "TestGood/hidden": "skip",
		"TestGood/txn": "skip", "TestBroken": "fail", "TestShy": "skip", "TestNew": "pass", "TestWorse": "fail"} {
		r.byTest[test] = result{test: test, action: action}
	}
	failures := func(sel selection) (out []string) {
		for _, f := range judge(suite{depth: 1}, l, r, sel).failures {
			out = append(out, f.String())
		}
		return out
	}
	want := []string{
		"TestBroken is listed as passing: got fail",
		"TestGone is listed and was not there, or did not end",
		"TestGood/hidden skips itself, and no reason is listed",
		"TestOld is listed, but the suite has no such test",
		"TestShy is listed as passing: got skip",
		"TestWorse fails, and is not listed",
	}
	if diff := cmp.Diff(want, failures(selection{})); diff != "" {
		t.Errorf("short form (-want +got):\n%s", diff)
	}
	if got := failures(selection{full: true}); !slices.Contains(got, "TestSlow is listed and was not there, or did not end") {
		t.Errorf("the full form does not miss the slow test: %v", got)
	}
	if got := failures(selection{full: true, only: true}); len(got) != len(want)-1 {
		t.Errorf("a run of some tests: got %v", got)
	}
	f := judge(suite{depth: 1}, l, r, selection{})
	if f.left != 1 || f.skipped != 3 || len(f.passed) != 1 || len(f.unlisted) != 1 || f.unlisted[0].test != "TestNew" {
		t.Errorf("got %+v", f)
	}
}

func TestAListGrowsAndNeverShrinks(t *testing.T) {
	l, err := parseList("# heading\n\npass TestB\nskip TestTxn transactions")
	if err != nil {
		t.Fatal(err)
	}
	got := l.add([]result{{test: "TestC/x", seconds: 9}, {test: "TestC", seconds: 9}, {test: "TestA"}}, 5*time.Second).String()
	want := "# heading\n\nskip TestTxn transactions\n\nslow TestC/x\n\npass TestA\npass TestB\npass TestC\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestReal is run by TestResultsOfARealTestProgram, as a suite that passes, fails and skips.
func TestReal(t *testing.T) {
	if os.Getenv("VARVE_SUITES_REAL") == "" {
		return
	}
	t.Run("good", func(*testing.T) {})
	t.Run("bad", func(t *testing.T) { t.Error("too bad") })
	t.Run("shy", func(t *testing.T) { t.Skip("not today") })
}

func TestResultsOfARealTestProgram(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v=test2json", "-test.run=^TestReal$")
	cmd.Env = append(os.Environ(), "VARVE_SUITES_REAL=1")
	log := filepath.Join(t.TempDir(), "output")
	r, err := convert(t.Context(), cmd, log)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for test, r := range r.byTest {
		got[test] = r.action
	}
	want := map[string]string{"TestReal": "fail", "TestReal/good": "pass", "TestReal/bad": "fail", "TestReal/shy": "skip"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if out := r.outputOf("TestReal/bad"); !strings.Contains(out, "too bad") {
		t.Errorf("the output of the failed test is %q", out)
	}
	if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "not today") {
		t.Errorf("the file of the whole output holds %q, %v", text, err)
	}
}

func TestFlags(t *testing.T) {
	o, err := parse([]string{"-full", "sarama"}, io.Discard)
	if err != nil || !o.full || len(o.suites) != 1 || o.suites[0].name != "sarama" {
		t.Errorf("got %+v, %v", o, err)
	}
	if o, err := parse(nil, io.Discard); err != nil || len(o.suites) != len(suites) {
		t.Errorf("without names: got %d suites, %v", len(o.suites), err)
	}
	if _, err := parse([]string{"kfake"}, io.Discard); err == nil || !strings.Contains(err.Error(), `no suite "kfake"`) {
		t.Errorf("got %v", err)
	}
}

func TestASuiteThatChangedIsNotChangedInSilence(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "kafka"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kafka", "integration_test.go"), []byte("package kafka\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := withoutContainers(dir); err == nil || !strings.Contains(err.Error(), "does not import") {
		t.Errorf("got %v", err)
	}
}

func TestProxiesOfAnotherAreNotTakenForOurs(t *testing.T) {
	want := []proxy{{Name: "kafka1", Listen: "127.0.0.1:1", Upstream: "127.0.0.1:2", Enabled: true}}
	served := map[string]proxy{"kafka1": want[0]}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(served); err != nil {
			t.Error(err)
		}
	}))
	defer api.Close()
	address := strings.TrimPrefix(api.URL, "http://")
	if err := awaitProxies(t.Context(), address, want); err != nil {
		t.Error(err)
	}
	served["kafka1"] = proxy{Name: "kafka1", Listen: "127.0.0.1:1", Upstream: "127.0.0.1:3", Enabled: true}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := awaitProxies(ctx, address, want); err == nil {
		t.Error("a proxy to another broker was taken for ours")
	}
}
