package xds

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/waggle-lb/waggle/translate"
)

// metrics are the counters; everything else is read off the state when it is asked for.
// No label names a proxy or a resource: their number must not follow the Swarm's.
type metrics struct {
	nacks      *prometheus.CounterVec
	ackLatency *prometheus.HistogramVec
	trials     *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		nacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "waggle_xds_nacks_total",
			Help: "Responses that a proxy rejected.",
		}, []string{"collection", "type"}),
		ackLatency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "waggle_xds_ack_latency_seconds",
			Help:    "From a change that was due for a proxy (a publish, a subscription) to that proxy's acknowledgement.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15},
		}, []string{"type"}),
		trials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "waggle_xds_trials_total",
			Help: "Changes that were tried with one proxy first: accepted there, given to all because it took too long (timeout), or because every proxy that tried it went away (vanished).",
		}, []string{"collection", "outcome"}),
	}
}

func (m *metrics) forget(collection string) {
	m.nacks.DeletePartialMatch(prometheus.Labels{"collection": collection})
	m.trials.DeletePartialMatch(prometheus.Labels{"collection": collection})
}

var (
	descStreams = prometheus.NewDesc("waggle_xds_streams",
		"Connected proxies.", []string{"collection"}, nil)
	descCurrent = prometheus.NewDesc("waggle_xds_streams_current",
		"Connected proxies that have acknowledged everything.", []string{"collection"}, nil)
	descResources = prometheus.NewDesc("waggle_xds_resources",
		"Resources served.", []string{"collection", "type"}, nil)
	descPublishes = prometheus.NewDesc("waggle_xds_publishes_total",
		"Publishes since the start.", []string{"collection"}, nil)
	descGeneration = prometheus.NewDesc("waggle_xds_generation",
		"Publishes that changed something: the number of the current generation.", []string{"collection"}, nil)
	descPublished = prometheus.NewDesc("waggle_xds_last_publish_timestamp_seconds",
		"Time of the newest publish.", []string{"collection"}, nil)
	descOffered = prometheus.NewDesc("waggle_xds_from_disk",
		"1 while there is no picture of what runs yet and new proxies get what was accepted last, from disk.", []string{"collection"}, nil)
	descQuarantined = prometheus.NewDesc("waggle_xds_quarantined",
		"Resources that are published and not served, or not all of them, because proxies reject them.", []string{"collection"}, nil)
)

// Describe is part of prometheus.Collector.
func (s *Server) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descStreams, descCurrent, descResources, descPublishes, descGeneration, descPublished, descOffered, descQuarantined} {
		out <- d
	}
	s.metrics.nacks.Describe(out)
	s.metrics.ackLatency.Describe(out)
	s.metrics.trials.Describe(out)
}

// Collect is part of prometheus.Collector.
func (s *Server) Collect(out chan<- prometheus.Metric) {
	s.mu.RLock()
	configured := make([]*collection, 0, len(s.collections))
	for _, k := range s.collections {
		configured = append(configured, k)
	}
	s.mu.RUnlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, k := range configured {
		k.mu.Lock()
		streams, current := len(k.streams), 0
		for st := range k.streams {
			if st.describe().Current {
				current++
			}
		}
		var sizes [translate.NumKinds]int
		for kind := range k.tables {
			sizes[kind] = len(k.tables[kind].live)
		}
		publishes, seq, published := k.publishes, k.seq, k.published
		fromDisk := 0.0
		if k.offering() {
			fromDisk = 1
		}
		k.mu.Unlock()

		k.quarantine.mu.Lock()
		held := len(k.quarantine.held)
		k.quarantine.mu.Unlock()
		gauge(descOffered, fromDisk, k.name)
		gauge(descQuarantined, float64(held), k.name)
		gauge(descStreams, float64(streams), k.name)
		gauge(descCurrent, float64(current), k.name)
		for kind, n := range sizes {
			gauge(descResources, float64(n), k.name, translate.Kind(kind).String())
		}
		out <- prometheus.MustNewConstMetric(descPublishes, prometheus.CounterValue, float64(publishes), k.name)
		gauge(descGeneration, float64(seq), k.name)
		if publishes > 0 {
			gauge(descPublished, float64(published.UnixMilli())/1000, k.name)
		}
	}
	s.metrics.nacks.Collect(out)
	s.metrics.ackLatency.Collect(out)
	s.metrics.trials.Collect(out)
}
