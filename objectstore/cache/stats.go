package cache

import "github.com/prometheus/client_golang/prometheus"

const (
	placeImage = "image"
	placeDisk  = "disk"
	placeCold  = "cold"
	placeBelow = "below"
)

// Stats is what lies where, and how often each place answered a View.
type Stats struct {
	Images, Files, Chunks                       int   // now
	ImageBytes, DiskBytes, ColdBytes            int64 // now; images that wait for the disk included, chunks on their way too
	ImageHits, DiskHits, ColdHits, Misses       int64 // Views by the farthest place that was asked
	Gets, GetBytes, Prefetches, Hedges          int64 // requests below, with repeats; chunks that a Prefetch began; second GETs of what was late
	BadFiles, BadGets, WriteErrors              int64
	SpilledBytes                                int64
	ImagesDropped /* unspilled */, FilesEvicted int64
	ChunksEvicted                               int64
}

// Stats is a consistent picture.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Images, s.Files = len(c.images), len(c.files)
	for _, chunks := range c.cold {
		s.Chunks += len(chunks)
	}
	s.ImageBytes, s.DiskBytes, s.ColdBytes = c.imageBytes+c.backlogBytes, c.fileBytes, c.coldBytes
	return s
}

var (
	descBytes    = prometheus.NewDesc("varve_cache_bytes", "Bytes held, by place (image, disk, cold).", []string{"place"}, nil)
	descObjects  = prometheus.NewDesc("varve_cache_objects", "Images, files and chunks held, by place (image, disk, cold).", []string{"place"}, nil)
	descViews    = prometheus.NewDesc("varve_cache_views_total", "Views, by the farthest place that was asked (image, disk, cold, below).", []string{"place"}, nil)
	descGets     = prometheus.NewDesc("varve_cache_gets_total", "GET requests that the cache sent below.", nil, nil)
	descGetBytes = prometheus.NewDesc("varve_cache_get_bytes_total", "Bytes that the cache asked for from below.", nil, nil)
	descAhead    = prometheus.NewDesc("varve_cache_prefetches_total", "Chunks whose download a prefetch began.", nil, nil)
	descHedges   = prometheus.NewDesc("varve_cache_hedges_total", "GETs that were sent a second time because the first took long.", nil, nil)
	descBad      = prometheus.NewDesc("varve_cache_bad_bytes_total", "Reads whose bytes did not match their checksum, by place (disk, below).", []string{"place"}, nil)
	descErrors   = prometheus.NewDesc("varve_cache_write_errors_total", "Copies that could not be written to local disk.", nil, nil)
	descSpilled  = prometheus.NewDesc("varve_cache_spilled_bytes_total", "Bytes of images written to local disk when memory was full.", nil, nil)
	descEvicted  = prometheus.NewDesc("varve_cache_evictions_total", "Copies that went for lack of room, by place (image, disk, cold).", []string{"place"}, nil)
)

// collector shows Stats to Prometheus.
type collector struct{ c *Cache }

func (m collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descBytes, descObjects, descViews, descGets, descGetBytes, descAhead, descHedges, descBad, descErrors, descSpilled, descEvicted} {
		out <- d
	}
}

func (m collector) Collect(out chan<- prometheus.Metric) {
	s := m.c.Stats()
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	count := func(d *prometheus.Desc, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descBytes, s.ImageBytes, placeImage)
	gauge(descBytes, s.DiskBytes, placeDisk)
	gauge(descBytes, s.ColdBytes, placeCold)
	gauge(descObjects, int64(s.Images), placeImage)
	gauge(descObjects, int64(s.Files), placeDisk)
	gauge(descObjects, int64(s.Chunks), placeCold)
	count(descViews, s.ImageHits, placeImage)
	count(descViews, s.DiskHits, placeDisk)
	count(descViews, s.ColdHits, placeCold)
	count(descViews, s.Misses, placeBelow)
	count(descGets, s.Gets)
	count(descGetBytes, s.GetBytes)
	count(descAhead, s.Prefetches)
	count(descHedges, s.Hedges)
	count(descBad, s.BadFiles, placeDisk)
	count(descBad, s.BadGets, placeBelow)
	count(descErrors, s.WriteErrors)
	count(descSpilled, s.SpilledBytes)
	count(descEvicted, s.ImagesDropped, placeImage)
	count(descEvicted, s.FilesEvicted, placeDisk)
	count(descEvicted, s.ChunksEvicted, placeCold)
}
