package control

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waggle-lb/waggle/translate"
)

// metrics of the loop. Labels are few and bounded: no service, no stream.
type metrics struct {
	builds        *prometheus.CounterVec
	translateTime *prometheus.HistogramVec
	buildTime     *prometheus.HistogramVec
	problemCount  *prometheus.GaugeVec
}

func newMetrics() *metrics {
	buckets := []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1}
	kind := []string{"kind"}
	return &metrics{
		builds:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waggle_builds_total", Help: "Builds published, by what they could change (structure or endpoints)."}, kind),
		translateTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "waggle_translate_seconds", Help: "Time to translate one build.", Buckets: buckets}, kind),
		buildTime:     prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "waggle_build_seconds", Help: "Time to translate one build and hand it to the proxies' streams.", Buckets: buckets}, kind),
		problemCount:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "waggle_problems", Help: "Problems of services, by collection and severity."}, []string{"collection", "severity"}),
	}
}

func (m *metrics) built(kind string, translated, whole time.Duration) {
	m.builds.WithLabelValues(kind).Inc()
	m.translateTime.WithLabelValues(kind).Observe(translated.Seconds())
	m.buildTime.WithLabelValues(kind).Observe(whole.Seconds())
}

func (m *metrics) problems(ps []translate.Problem) {
	m.problemCount.Reset()
	for _, p := range ps {
		m.problemCount.WithLabelValues(p.Collection, string(p.Severity)).Inc()
	}
}

// Describe implements prometheus.Collector.
func (c *Control) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector: the loop's counters, and how fresh the picture is.
func (c *Control) Collect(ch chan<- prometheus.Metric) {
	c.metrics.builds.Collect(ch)
	c.metrics.translateTime.Collect(ch)
	c.metrics.buildTime.Collect(ch)
	c.metrics.problemCount.Collect(ch)
	s := c.Status()
	gauge := func(name, help string, v float64) {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, v)
	}
	gauge("waggle_held_back", "Collections of which a change is held back until a second complete list of what runs confirms it.", float64(len(s.Held)))
	gauge("waggle_ready", "1 once the first complete picture is published.", flag(s.Ready))
	gauge("waggle_source_stale", "1 while what runs cannot be read and the last picture is in force.", flag(s.SourceError != nil))
	gauge("waggle_config_stale", "1 while the newest waggle.yml cannot be used and the one before is in force.", flag(s.ConfigError != nil))
	if !s.LastRead.IsZero() {
		gauge("waggle_source_last_success_timestamp_seconds", "When the picture in force was last known to be right.", float64(s.LastRead.UnixNano())/1e9)
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
