package group

import "github.com/prometheus/client_golang/prometheus"

// Metrics of the coordinator. Every write to the store is counted: it is a statement that somebody pays for.
type Metrics struct {
	Groups        prometheus.Gauge
	Rebalances    prometheus.Counter
	Offsets       prometheus.Counter
	Writes        prometheus.Counter
	WriteFailures prometheus.Counter
	WriteSeconds  prometheus.Histogram
}

// NewMetrics registers them with reg; nil registers them nowhere.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "varve", Subsystem: "group", Name: name, Help: help})
	}
	m := &Metrics{
		Groups: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "varve", Subsystem: "group", Name: "groups", Help: "Groups held in memory, as of the last look for expired offsets.",
		}),
		Rebalances:    counter("rebalances_total", "Generations begun."),
		Offsets:       counter("offsets_committed_total", "Offsets that were committed, before coalescing."),
		Writes:        counter("writes_total", "Writes sent to the metadata store."),
		WriteFailures: counter("write_failures_total", "Writes that failed or whose reply was lost."),
		WriteSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "varve", Subsystem: "group", Name: "write_seconds", Help: "Time of one write to the metadata store.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
	}
	if reg != nil {
		reg.MustRegister(m.Groups, m.Rebalances, m.Offsets, m.Writes, m.WriteFailures, m.WriteSeconds)
	}
	return m
}
