package objectstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"varve.dev/objectstore"
	"varve.dev/objectstore/memory"
	"varve.dev/objectstore/storetest"
)

func TestDecoratorsKeepTheContract(t *testing.T) {
	metrics, err := objectstore.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	well := func(objectstore.Call) objectstore.Fault { return objectstore.Fault{} }
	storetest.Run(t, func(*testing.T) objectstore.Store {
		faults := objectstore.NewFaults(memory.New(), well)
		recorder := objectstore.NewRecorder(metrics.Wrap(faults, "test"), objectstore.RecorderConfig{})
		return objectstore.NewRetry(recorder, objectstore.RetryConfig{})
	}, storetest.Traits{RefusesWrongChecksum: true, RefusesFolders: true})
}

// script answers the nth call with the nth fault, and well afterwards.
func script(faults ...objectstore.Fault) func(objectstore.Call) objectstore.Fault {
	return func(objectstore.Call) objectstore.Fault {
		if len(faults) == 0 {
			return objectstore.Fault{}
		}
		f := faults[0]
		faults = faults[1:]
		return f
	}
}

var (
	away     = objectstore.Fault{Before: fmt.Errorf("%w: test", objectstore.ErrUnavailable)}
	lost     = objectstore.Fault{Lost: fmt.Errorf("%w: test", objectstore.ErrUnavailable)}
	slowDown = objectstore.Fault{Before: fmt.Errorf("%w: test", objectstore.ErrThrottled)}
	damaged  = objectstore.Fault{Before: fmt.Errorf("%w: test", objectstore.ErrChecksum)}
	hang     = objectstore.Fault{Delay: 24 * time.Hour}
)

// stack is retry over a recorder over faults over memory.
func stack(next objectstore.Store, cfg objectstore.RetryConfig, faults ...objectstore.Fault) (*objectstore.Retry, *objectstore.Recorder) {
	recorder := objectstore.NewRecorder(objectstore.NewFaults(next, script(faults...)), objectstore.RecorderConfig{})
	return objectstore.NewRetry(recorder, cfg), recorder
}

func TestRetriedPut(t *testing.T) {
	body := objectstore.NewBytes([]byte("ours"))
	other := objectstore.NewBytes([]byte("oars"))
	longer := objectstore.NewBytes([]byte("another"))
	cases := []struct {
		name   string
		there  objectstore.Body
		faults []objectstore.Fault
		want   error
		calls  string
	}{
		{"goes well", nil, nil, nil, "put k 4"},
		{"a taken key is not looked at", other, nil, objectstore.ErrExists, "put k 4 → exists"},
		{"throttled, then well", nil, []objectstore.Fault{slowDown}, nil, "put k 4 → throttled, put k 4"},
		{"unavailable, then well", nil, []objectstore.Fault{away}, nil, "put k 4 → unavailable, head k → not_found, put k 4"},
		{"stored, reply lost", nil, []objectstore.Fault{lost}, nil, "put k 4 → unavailable, head k"},
		{"stored, replies lost", nil, []objectstore.Fault{lost, away, away}, nil, "put k 4 → unavailable, head k → unavailable, head k → unavailable, head k"},
		{"unavailable, and another's object of our size is there", other, []objectstore.Fault{away}, objectstore.ErrExists, "put k 4 → unavailable, head k"},
		{"unavailable, and another's longer object is there", longer, []objectstore.Fault{away}, objectstore.ErrExists, "put k 4 → unavailable, head k"},
		{"throttled, but stored", body, []objectstore.Fault{slowDown}, nil, "put k 4 → throttled, put k 4 → exists, head k"},
		{"damaged once", nil, []objectstore.Fault{damaged}, nil, "put k 4 → checksum, put k 4"},
		{"damaged for ever", nil, []objectstore.Fault{damaged, damaged, damaged}, objectstore.ErrChecksum, "put k 4 → checksum, put k 4 → checksum"},
		{"away for longer than the attempts", nil, []objectstore.Fault{away, away, away, away, away}, objectstore.ErrUnavailable, "put k 4 → unavailable, head k → unavailable, head k → unavailable"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := memory.New()
				if c.there != nil {
					if err := mem.Put(t.Context(), "k", c.there); err != nil {
						t.Fatal(err)
					}
				}
				attempts := 3
				if strings.Contains(c.name, "replies lost") {
					attempts = 4
				}
				retry, recorder := stack(mem, objectstore.RetryConfig{Attempts: attempts}, c.faults...)
				if err := retry.Put(t.Context(), "k", body); !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if got := strings.Join(recorder.Take(), ", "); got != c.calls {
					t.Errorf("calls\n got %s\nwant %s", got, c.calls)
				}
			})
		})
	}
}

// forgetful is a store whose stats have no checksum, as some S3-compatible servers' have not.
type forgetful struct{ objectstore.Store }

func (s forgetful) Stat(ctx context.Context, key string) (objectstore.Info, error) {
	info, err := s.Store.Stat(ctx, key)
	info.CRC32C, info.HasCRC32C = 0, false
	return info, err
}

func TestRetriedPutReadsBackWhereThereIsNoChecksum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := storetest.NewRope(1, 2<<20+5, 1<<20)
		retry, recorder := stack(forgetful{memory.New()}, objectstore.RetryConfig{}, lost)
		if err := retry.Put(t.Context(), "k", body); err != nil {
			t.Error(err)
		}
		want := []string{"put k 2097157 → unavailable", "head k", "get k 0+1048576", "get k 1048576+1048576", "get k 2097152+5"}
		if got := recorder.Take(); !slices.Equal(got, want) {
			t.Errorf("calls\n got %q\nwant %q", got, want)
		}
	})
}

func TestRetryGivesEachAttemptItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := objectstore.RetryConfig{Attempts: 2, Timeout: 10 * time.Second, BytesPerSecond: 1 << 20, Random: func() float64 { return 1 }, Backoff: time.Second}
		retry, recorder := stack(memory.New(), cfg, hang, hang)
		start := time.Now()
		err := retry.ReadAt(t.Context(), "k", make([]byte, 5<<20), 0)
		if !errors.Is(err, objectstore.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want ErrUnavailable, and no sign of a deadline that the caller never set", err)
		}
		if got, want := time.Since(start), 2*(10+5)*time.Second+time.Second; got != want {
			t.Errorf("gave up after %s, want %s", got, want)
		}
		if got := len(recorder.Take()); got != 2 {
			t.Errorf("%d attempts, want 2", got)
		}
	})
}

func TestRetryBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		faults := objectstore.NewFaults(memory.New(), func(objectstore.Call) objectstore.Fault {
			at = append(at, time.Since(start))
			return slowDown
		})
		cfg := objectstore.RetryConfig{Attempts: 7, Backoff: time.Second, MaxBackoff: 10 * time.Second, Random: func() float64 { return 0.5 }}
		_, err := objectstore.NewRetry(faults, cfg).Stat(t.Context(), "k")
		if !errors.Is(err, objectstore.ErrThrottled) {
			t.Errorf("got %v, want ErrThrottled", err)
		}
		var want []time.Duration
		for _, halves := range []int{0, 1, 3, 7, 15, 25, 35} {
			want = append(want, time.Duration(halves)*time.Second/2)
		}
		if !slices.Equal(at, want) {
			t.Errorf("attempts at %v, want %v", at, want)
		}
	})
}

func TestRetryEndsWithTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faults := objectstore.NewFaults(memory.New(), func(objectstore.Call) objectstore.Fault { return away })
		retry := objectstore.NewRetry(faults, objectstore.RetryConfig{Attempts: -1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		err := retry.Delete(ctx, []string{"k"})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Hour {
			t.Errorf("after %s got %v, want the caller's deadline after an hour", time.Since(start), err)
		}
	})
}

func TestRetryDoesNotRepeatWhatCannotSucceed(t *testing.T) {
	for _, err := range []error{objectstore.ErrNotFound, objectstore.ErrExists, objectstore.ErrRange, objectstore.ErrKey, &objectstore.SetupError{Problem: "x"}, io.EOF} {
		retry, recorder := stack(memory.New(), objectstore.RetryConfig{}, objectstore.Fault{Before: err})
		if _, got := retry.Stat(t.Context(), "k"); !errors.Is(got, err) {
			t.Errorf("got %v, want %v", got, err)
		}
		if got := len(recorder.Take()); got != 1 {
			t.Errorf("%v: %d attempts, want 1", err, got)
		}
	}
}

func TestRetriedDeleteRepeatsOnlyTheRequestThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := make([]string, 2500)
		for i := range keys {
			keys[i] = fmt.Sprint("k", i)
		}
		retry, recorder := stack(memory.New(), objectstore.RetryConfig{}, objectstore.Fault{}, lost)
		if err := retry.Delete(t.Context(), keys); err != nil {
			t.Error(err)
		}
		var sizes []string
		for _, line := range recorder.Take() {
			sizes = append(sizes, strings.Fields(line)[1])
		}
		if want := []string{"1000", "1000", "1000", "500"}; !slices.Equal(sizes, want) {
			t.Errorf("requests of %q keys, want %q", sizes, want)
		}
	})
}

// stumbling lists two objects, then fails, as often as it is asked.
type stumbling struct {
	objectstore.Store
	lists int
}

func (s *stumbling) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	return func(yield func(objectstore.Info, error) bool) {
		s.lists++
		if s.lists == 1 {
			yield(objectstore.Info{}, objectstore.ErrUnavailable)
			return
		}
		if yield(objectstore.Info{Key: "a"}, nil) && yield(objectstore.Info{Key: "b"}, nil) {
			yield(objectstore.Info{}, objectstore.ErrUnavailable)
		}
	}
}

func TestRetriedListRepeatsOnlyBeforeTheFirstObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stumbling{Store: memory.New()}
		var keys []string
		var last error
		for info, err := range objectstore.NewRetry(s, objectstore.RetryConfig{}).List(t.Context(), "") {
			if last = err; err == nil {
				keys = append(keys, info.Key)
			}
		}
		if !slices.Equal(keys, []string{"a", "b"}) || !errors.Is(last, objectstore.ErrUnavailable) || s.lists != 2 {
			t.Errorf("got %q, %v after %d lists; want a and b, ErrUnavailable after 2", keys, last, s.lists)
		}
	})
}

func TestFaultsOfAReading(t *testing.T) {
	mem := memory.New()
	if err := mem.Put(t.Context(), "k", objectstore.NewBytes([]byte("12345678"))); err != nil {
		t.Fatal(err)
	}
	s := objectstore.NewFaults(mem, script(objectstore.Fault{Truncate: true}, objectstore.Fault{Corrupt: true}))
	got := []byte("........")
	if err := s.ReadAt(t.Context(), "k", got, 0); !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, objectstore.ErrUnavailable) || string(got) != "1234...." {
		t.Errorf("truncated: got %q, %v", got, err)
	}
	if err := s.ReadAt(t.Context(), "k", got, 0); err != nil || string(got) != "12344678" {
		t.Errorf("corrupt: got %q, %v", got, err)
	}
}

func TestRandomFaultsFollowTheSeed(t *testing.T) {
	draw := func(seed uint64) []string {
		decide := objectstore.RandomFaults(seed, objectstore.FaultRates{Delay: 0.2, Unavailable: 0.1, Throttled: 0.1, Lost: 0.1, Truncate: 0.1, Corrupt: 0.1, MaxDelay: time.Second})
		var drawn []string
		for range 200 {
			drawn = append(drawn, fmt.Sprint(decide(objectstore.Call{Kind: objectstore.KindPut, Key: "k"})))
		}
		return drawn
	}
	if !slices.Equal(draw(1), draw(1)) {
		t.Error("the same seed drew other faults")
	}
	if slices.Equal(draw(1), draw(2)) {
		t.Error("another seed drew the same faults")
	}
}

func TestPutsSurviveRandomFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(20) {
			mem := memory.New()
			faults := objectstore.NewFaults(mem, objectstore.RandomFaults(seed, objectstore.FaultRates{Unavailable: 0.2, Throttled: 0.1, Lost: 0.2, Truncate: 0.2, Delay: 0.2, MaxDelay: 20 * time.Second}))
			retry := objectstore.NewRetry(faults, objectstore.RetryConfig{Attempts: -1})
			for i := range 20 {
				key, data := fmt.Sprint("k", i), storetest.Noise(seed, 100+i)
				if err := retry.Put(t.Context(), key, objectstore.NewBytes(data)); err != nil {
					t.Fatalf("seed %d: put: %v", seed, err)
				}
				got := make([]byte, len(data))
				if err := retry.ReadAt(t.Context(), key, got, 0); err != nil || !slices.Equal(got, data) {
					t.Fatalf("seed %d: read: %v", seed, err)
				}
			}
		}
	})
}

func TestRecorderNamesKeys(t *testing.T) {
	r := objectstore.NewRecorder(memory.New(), objectstore.RecorderConfig{Name: func(key string) string { return strings.ReplaceAll(key, "4711", "N") }})
	ctx := t.Context()
	r.Put(ctx, "wal/4711", objectstore.NewBytes([]byte("abc")))
	r.ReadAt(ctx, "wal/4711", make([]byte, 2), 1)
	r.Stat(ctx, "wal/none")
	for range r.List(ctx, "wal/") {
	}
	r.Delete(ctx, []string{"wal/4711", "b"})
	if got := r.Count(objectstore.KindGet); got != 1 {
		t.Errorf("%d gets, want 1", got)
	}
	want := []string{"put wal/N 3", "get wal/N 1+2", "head wal/none → not_found", "list wal/", "delete 2 wal/N b"}
	if got := r.Take(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := r.Take(); len(got) != 0 {
		t.Errorf("after Take: %q", got)
	}
}

func TestMetricsCountRequestsAndBytes(t *testing.T) {
	reg := prometheus.NewRegistry()
	metrics, err := objectstore.NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, s := t.Context(), metrics.Wrap(memory.New(), "write")
	s.Put(ctx, "a", objectstore.NewBytes(make([]byte, 100)))
	s.Put(ctx, "a", objectstore.NewBytes(make([]byte, 100)))
	s.ReadAt(ctx, "a", make([]byte, 60), 0)
	s.Stat(ctx, "b")
	s.Delete(ctx, manyKeys(1500))
	for range s.List(ctx, "") {
	}
	const want = `
# HELP varve_objectstore_bytes_total Bytes of objects moved by requests that succeeded, by use and kind (put, get).
# TYPE varve_objectstore_bytes_total counter
varve_objectstore_bytes_total{kind="get",use="write"} 60
varve_objectstore_bytes_total{kind="put",use="write"} 100
# HELP varve_objectstore_requests_total Requests sent to the object store, by use, kind (put, get, head, delete, list) and result.
# TYPE varve_objectstore_requests_total counter
varve_objectstore_requests_total{kind="delete",result="ok",use="write"} 2
varve_objectstore_requests_total{kind="get",result="ok",use="write"} 1
varve_objectstore_requests_total{kind="head",result="not_found",use="write"} 1
varve_objectstore_requests_total{kind="head",result="ok",use="write"} 0
varve_objectstore_requests_total{kind="list",result="ok",use="write"} 1
varve_objectstore_requests_total{kind="put",result="exists",use="write"} 1
varve_objectstore_requests_total{kind="put",result="ok",use="write"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "varve_objectstore_requests_total", "varve_objectstore_bytes_total"); err != nil {
		t.Error(err)
	}
	if _, err := objectstore.NewMetrics(reg); err == nil {
		t.Error("a second Metrics took the same names")
	}
}

func manyKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("key", i)
	}
	return keys
}

// careless keeps none of the promises: puts overwrite, sums are ignored, stats have none.
type careless struct{ forgetful }

func (s careless) Put(ctx context.Context, key string, body objectstore.Body) error {
	data := make([]byte, body.Size())
	if _, err := io.ReadFull(body.Open(), data); err != nil {
		return err
	}
	s.Store.Delete(ctx, []string{key})
	return s.Store.Put(ctx, key, objectstore.NewBytes(data))
}

func (s careless) Delete(context.Context, []string) error { return nil }

func TestProbeFindsAStoreThatKeepsNoPromise(t *testing.T) {
	found, err := objectstore.Probe(t.Context(), careless{forgetful{memory.New()}}, "")
	if err != nil || found != (objectstore.Findings{}) {
		t.Errorf("got %+v, %v; want nothing found and no error", found, err)
	}
	broken := objectstore.NewFaults(memory.New(), func(c objectstore.Call) objectstore.Fault { return objectstore.Fault{Corrupt: true} })
	var setup *objectstore.SetupError
	if _, err := objectstore.Probe(t.Context(), broken, ""); !errors.As(err, &setup) {
		t.Errorf("a store that returns other bytes: got %v, want a SetupError", err)
	}
}

func TestProbeCosts(t *testing.T) {
	store := memory.New()
	r := objectstore.NewRecorder(store, objectstore.RecorderConfig{})
	if _, err := objectstore.Probe(t.Context(), r, "p/"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"put p/probe 5", "put p/probe 5 → exists", "head p/probe", "get p/probe 0+5",
		"put p/probe-wrong 5 → checksum", "delete 2 p/probe p/probe-wrong", "head p/probe → not_found",
	}
	if got := r.Take(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The next probe finds the same as if the last one had ended, and leaves nothing.
func TestProbeAfterOneThatWasKilled(t *testing.T) {
	for _, left := range [][]string{{"p/probe"}, {"p/probe-wrong"}, {"p/probe", "p/probe-wrong"}} {
		for _, conditional := range []bool{true, false} {
			var store objectstore.Store = memory.New()
			for _, key := range left {
				if err := store.Put(t.Context(), key, objectstore.NewBytes([]byte("other"))); err != nil {
					t.Fatal(err)
				}
			}
			s := store
			if !conditional {
				s = overwriting{store}
			}
			found, err := objectstore.Probe(t.Context(), s, "p/")
			want := objectstore.Findings{ConditionalPut: conditional, ChecksumOnPut: true, ChecksumOnStat: true, Deletes: true}
			if err != nil || found != want {
				t.Errorf("%v: got %+v, %v; want %+v", left, found, err, want)
			}
			for info := range store.List(t.Context(), "") {
				t.Errorf("%v: left behind: %s", left, info.Key)
			}
		}
	}
}

// overwriting is a store without conditional puts.
type overwriting struct{ objectstore.Store }

func (s overwriting) Put(ctx context.Context, key string, body objectstore.Body) error {
	err := s.Store.Put(ctx, key, body)
	if errors.Is(err, objectstore.ErrExists) {
		if err := s.Store.Delete(ctx, []string{key}); err != nil {
			return err
		}
		err = s.Store.Put(ctx, key, body)
	}
	return err
}
