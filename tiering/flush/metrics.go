package flush

import "github.com/prometheus/client_golang/prometheus"

// Metrics of a Buffer.
type Metrics struct {
	Objects, Bytes, Syncs, Waits, UploadErrors, CommitRetries prometheus.Counter
	Upload, Commit                                            prometheus.Histogram
}

// NewMetrics registers them with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	seconds := func(name, help string) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)})
		r.MustRegister(h)
		return h
	}
	return &Metrics{
		Objects:       counter("varve_wal_objects_total", "WAL objects committed."),
		Bytes:         counter("varve_wal_bytes_total", "Bytes of WAL objects committed."),
		Syncs:         counter("varve_journal_syncs_total", "Journal syncs; one serves every partition."),
		Waits:         counter("varve_produce_waits_total", "Produce requests that waited for room."),
		UploadErrors:  counter("varve_upload_errors_total", "Uploads of WAL objects that failed and were tried again."),
		CommitRetries: counter("varve_commit_retries_total", "Commits that were tried again."),
		Upload:        seconds("varve_upload_seconds", "From the built object to the stored one."),
		Commit:        seconds("varve_commit_seconds", "From the stored object to the known commit."),
	}
}
