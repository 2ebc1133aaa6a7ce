package courier

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	jobs *prometheus.CounterVec
	time prometheus.Histogram
}

func newMetrics() *metrics {
	return &metrics{
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waggle_courier_jobs_total", Help: "Jobs that were made to fetch Docker secrets, by whether they brought everything."}, []string{"result"}),
		time: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "waggle_courier_job_seconds", Help: "Time from the making of a job until it has brought what it was to, or failed.", Buckets: []float64{.25, .5, 1, 2, 5, 10, 30, 60}}),
	}
}

func (m *metrics) job(complete bool, took time.Duration) {
	result := "failed"
	if complete {
		result = "complete"
	}
	m.jobs.WithLabelValues(result).Inc()
	m.time.Observe(took.Seconds())
}

// Describe implements prometheus.Collector.
func (c *Courier) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *Courier) Collect(ch chan<- prometheus.Metric) {
	c.metrics.jobs.Collect(ch)
	c.metrics.time.Collect(ch)
	desc := prometheus.NewDesc("waggle_courier_secrets", "Docker secrets that labels want and the courier may fetch, by what became of them.", []string{"state"}, nil)
	counts := c.counts()
	for _, state := range slices.Sorted(maps.Keys(counts)) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(counts[state]), state)
	}
}
