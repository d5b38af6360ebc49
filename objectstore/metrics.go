package objectstore

import (
	"context"
	"iter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts every request by kind, since cost is a metric. It stands next to the driver, below Retry, so that each
// attempt counts as the request that it is.
type Metrics struct {
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// NewMetrics registers the counters. One Metrics wraps all stores of a process: each use has its label.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "varve_objectstore_requests_total",
			Help: "Requests sent to the object store, by use, kind (put, get, head, delete, list) and result.",
		}, []string{"use", "kind", "result"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "varve_objectstore_bytes_total",
			Help: "Bytes of objects moved by requests that succeeded, by use and kind (put, get).",
		}, []string{"use", "kind"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "varve_objectstore_request_seconds",
			Help: "Duration of requests to the object store, by use and kind.",
			// 1 ms (a local store) to 262 s (256 MiB at 1 MiB/s), each four times the one before.
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10),
		}, []string{"use", "kind"}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.bytes, m.seconds} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Wrap counts what goes through next; use says what for, such as "write" or "history".
// Every kind counts from 0 at once: what is never asked for is seen not to be.
func (m *Metrics) Wrap(next Store, use string) Store {
	for _, kind := range []Kind{KindPut, KindGet, KindHead, KindDelete, KindList} {
		m.requests.WithLabelValues(use, string(kind), "ok")
	}
	return &measured{next, m, use}
}

type measured struct {
	next Store
	m    *Metrics
	use  string
}

func (s *measured) Put(ctx context.Context, key string, body Body) error {
	start := time.Now()
	err := s.next.Put(ctx, key, body)
	s.observe(KindPut, 1, body.Size(), start, err)
	return err
}

func (s *measured) ReadAt(ctx context.Context, key string, dst []byte, off int64) error {
	start := time.Now()
	err := s.next.ReadAt(ctx, key, dst, off)
	s.observe(KindGet, 1, int64(len(dst)), start, err)
	return err
}

func (s *measured) Stat(ctx context.Context, key string) (Info, error) {
	start := time.Now()
	info, err := s.next.Stat(ctx, key)
	s.observe(KindHead, 1, 0, start, err)
	return info, err
}

func (s *measured) Delete(ctx context.Context, keys []string) error {
	start := time.Now()
	err := s.next.Delete(ctx, keys)
	s.observe(KindDelete, (len(keys)+MaxDeleteKeys-1)/MaxDeleteKeys, 0, start, err)
	return err
}

// List counts one request for each listPage objects, which is how stores answer. Its seconds include the caller's.
func (s *measured) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	const listPage = 1000
	return func(yield func(Info, error) bool) {
		start, n := time.Now(), 0
		var last error
		for info, err := range s.next.List(ctx, prefix) {
			n++
			if last = err; !yield(info, err) {
				break
			}
		}
		s.observe(KindList, 1+max(n-1, 0)/listPage, 0, start, last)
	}
}

func (s *measured) observe(kind Kind, requests int, size int64, start time.Time, err error) {
	s.m.requests.WithLabelValues(s.use, string(kind), Outcome(err)).Add(float64(requests))
	s.m.seconds.WithLabelValues(s.use, string(kind)).Observe(time.Since(start).Seconds())
	if err == nil && (kind == KindPut || kind == KindGet) {
		s.m.bytes.WithLabelValues(s.use, string(kind)).Add(float64(size))
	}
}
