package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Varve answers as Apache Kafka did when it was last asked, but for the differences that have a reason.
func TestVarveAnswersAsKafkaDid(t *testing.T) {
	kafka, err := readAnswers(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	broker, err := startVarve(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := broker.stop(); err != nil {
			t.Error(err)
		}
	})
	versions, err := advertised(t.Context(), broker.addr)
	if err != nil {
		t.Fatal(err)
	}
	varve, err := askAll(t.Context(), broker.addr, versions, "")
	if err != nil {
		t.Fatal(err)
	}
	found := compare(kafka, varve, reasons())
	if err := found.err(); err != nil {
		t.Errorf("%v\nmake compare-kafka asks Kafka again", err)
	}
	table, err := os.ReadFile(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	if !t.Failed() && !bytes.Equal(table, found.table(kafka)) {
		t.Errorf("%s is not what the answers say: make compare-kafka writes it", tableFile)
	}
}

// Apache Kafka still answers as recorded, and Varve like it.
func TestApacheKafkaAnswersAsRecorded(t *testing.T) {
	if os.Getenv("VARVE_TEST_ALL") == "" {
		t.Skip("Apache Kafka is asked with VARVE_TEST_ALL=1")
	}
	recorded, err := readAnswers(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	both, err := askBoth(t.Context(), t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := compare(both.kafka, both.varve, reasons()).err(); err != nil {
		t.Error(err)
	}
	for _, d := range compare(recorded, both.kafka, nil).differences {
		t.Errorf("case %q, %s: %s was %s when it was recorded, is %s", d.c, d.where(), d.field, d.kafka, d.varve)
	}
}

// Every item of the checklist, from connections to classic groups, is tried by a case here, or by the test that is named.
func TestEveryItemIsTried(t *testing.T) {
	const items = 46
	elsewhere := map[int]string{ // file of tests, and what is in the test's name
		8:  "agent/node/protocol_test.go Item8",
		9:  "agent/node/protocol_test.go Item9",
		19: "agent/config/config_test.go TestTopicDefaultsAreKafkas",
		32: "agent/node/protocol_test.go Item32",
		35: "agent/node/protocol_test.go Item35",
		36: "agent/node/protocol_test.go Item36",
		38: "agent/node/protocol_test.go Item38",
	}
	tried := map[string]bool{}
	for _, c := range conversations() {
		number, _, _ := strings.Cut(c.name, " ")
		tried[number] = true
	}
	for item := 1; item <= items; item++ {
		where, named := elsewhere[item]
		if tried[strconv.Itoa(item)] == named {
			t.Errorf("item %d: tried here %v, elsewhere %q: want one of the two", item, tried[strconv.Itoa(item)], where)
		}
		if !named {
			continue
		}
		file, name, _ := strings.Cut(where, " ")
		text, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(text, []byte(name)) {
			t.Errorf("item %d: %s has no test named %s", item, file, name)
		}
	}
}

func one(fields ...string) answers {
	m := map[string]string{}
	for _, f := range fields {
		k, v, _ := strings.Cut(f, "=")
		m[k] = v
	}
	return answers{"case": {{"step", 1, 1, m}}}
}

func TestWhatDiffers(t *testing.T) {
	for _, c := range []struct {
		name         string
		kafka, varve answers
		want         []string // field: Kafka's value, Varve's
	}{
		{"the same", one("A=1", "B=2"), one("B=2", "A=1"), nil},
		{"a value", one("A=1", "B=2"), one("A=1", "B=3"), []string{"B: 2, 3"}},
		{"a field of one side", one("A=1", "B=2"), one("A=1"), []string{"B: 2, absent"}},
		{"an element of one side", one("T[a].N=1", "T[a].P[0].E=0", "T[a].P[1].E=0"), one("T[a].N=1", "T[a].P[0].E=0"), []string{"T[a].P[1]: there, absent"}},
		{"all elements of one side", one("T[a].N=1"), one("T=null"), []string{"T[a]: there, absent"}},
		{"an error, and what follows from it", one("P[0].ErrorCode=0", "P[0].Offset=7", "P[0].X.Y=1"),
			one("P[0].ErrorCode=3", "P[0].Offset=-1", "P[0].X.Y=2"), []string{"P[0].ErrorCode: 0, 3"}},
		{"an error of another element", one("P[0].ErrorCode=0", "P[1].ErrorCode=0", "P[1].O=1"), one("P[0].ErrorCode=3", "P[1].ErrorCode=0", "P[1].O=2"),
			[]string{"P[0].ErrorCode: 0, 3", "P[1].O: 1, 2"}},
		{"no answer", one("=closed"), one("A=1", "B=2"), []string{": closed, there"}},
		{"closed and silent", one("=closed"), one("=silent"), []string{": closed, silent"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, d := range compare(c.kafka, c.varve, nil).differences {
				got = append(got, d.field+": "+d.kafka+", "+d.varve)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatFailsAComparison(t *testing.T) {
	fits := []reason{{Case: "c*", Field: "A", Kafka: "1", Varve: "2", Why: "because"}}
	for _, c := range []struct {
		name         string
		kafka, varve answers
		why          []reason
		want         string // in the error; empty: none
	}{
		{"a reason that fits", one("A=1"), one("A=2"), fits, ""},
		{"no reason", one("A=1"), one("A=2"), nil, "without a reason"},
		{"a reason for another value", one("A=1"), one("A=3"), fits, "without a reason"},
		{"a reason that explains nothing", one("A=1"), one("A=1"), fits, "explains nothing"},
		{"a second reason for the same", one("A=1"), one("A=2"), append(slices.Clone(fits), fits...), "explains nothing"},
		{"a case that Varve was not asked", one("A=1"), answers{}, nil, "only Kafka was asked"},
		{"a case that Kafka was not asked", answers{}, one("A=1"), nil, "Kafka was not asked"},
		{"a step that Varve was not asked", answers{"case": {{"step", 1, 2, nil}}}, answers{"case": {{"step", 1, 1, nil}}}, nil, "was not asked of Varve"},
	} {
		t.Run(c.name, func(t *testing.T) {
			kafka, varve := maps.Clone(c.kafka), maps.Clone(c.varve)
			for name := range kafka {
				kafka[name] = unfolded(kafka[name])
			}
			err := compare(kafka, varve, c.why).err()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestRecordedAnswersComeBack(t *testing.T) {
	want := answers{"a case": {{"first", 0, 0, map[string]string{"A": "<1>"}}, {"first", 1, 1, map[string]string{"A": "<1>"}}, {"first", 2, 2, map[string]string{"A": "2"}},
		{"second", 3, 3, map[string]string{"": closed}}, {"second", 32767, 32767, nil}}, "another": {{"first", 0, 0, nil}}}
	file := filepath.Join(t.TempDir(), "answers.json")
	if err := writeAnswers(file, want); err != nil {
		t.Fatal(err)
	}
	got, err := readAnswers(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what was written and read (-want +got):\n%s", diff)
	}
	if text, _ := os.ReadFile(file); !strings.Contains(string(text), `"First":0,"Last":1`) {
		t.Errorf("versions that answer alike are not one line:\n%s", text)
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{{"", "anything", true}, {"abc", "abc", true}, {"abc", "abcd", false}, {"a*", "abc", true}, {"*c", "abc", true}, {"a*c", "abc", true}, {"a*c", "abd", false},
		{"*b*", "abc", true}, {"*x*", "abc", false}, {"a*a", "a", false}, {"*", "", true}, {"a*b*c", "axxbyyc", true}, {"a*b*c", "axxcyyb", false}} {
		if got := matches(c.pattern, c.s); got != c.want {
			t.Errorf("%q matches %q: %v, want %v", c.pattern, c.s, got, c.want)
		}
	}
}
