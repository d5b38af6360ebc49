package wire

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// metrics is what operators see of connections.
type metrics struct {
	connections prometheus.Gauge
	refused     *prometheus.CounterVec // by limit
	closed      *prometheus.CounterVec // by reason
	bytesIn     prometheus.Counter
	bytesOut    prometheus.Counter
	requests    [kmsg.MaxKey + 1]prometheus.Observer // by API: a histogram counts as well
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "varve_wire_connections", Help: "Open client connections."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "varve_wire_connections_refused_total", Help: "Connections closed at once, by the limit they met."},
			[]string{"limit"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "varve_wire_connections_closed_total", Help: "Connections that have ended, by reason."},
			[]string{"reason"}),
		bytesIn: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "varve_wire_received_bytes_total", Help: "Bytes of requests."}),
		bytesOut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "varve_wire_sent_bytes_total", Help: "Bytes of answers."}),
	}
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "varve_wire_request_seconds",
		Help:    "Time from a request's last byte to its answer being ready, by API.",
		Buckets: []float64{0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
	}, []string{"api"})
	reg.MustRegister(m.connections, m.refused, m.closed, m.bytesIn, m.bytesOut, seconds)
	for key := range m.requests {
		m.requests[key] = &lazyObserver{of: seconds, api: kmsg.NameForKey(int16(key))}
	}
	return m
}

// lazyObserver keeps the series of APIs that nobody calls out of the exposition.
type lazyObserver struct {
	of   *prometheus.HistogramVec
	api  string
	once sync.Once
	is   prometheus.Observer
}

func (l *lazyObserver) Observe(v float64) {
	l.once.Do(func() { l.is = l.of.WithLabelValues(l.api) })
	l.is.Observe(v)
}

func (m *metrics) observe(key int16, took time.Duration) {
	if key >= 0 && int(key) < len(m.requests) {
		m.requests[key].Observe(took.Seconds())
	}
}
