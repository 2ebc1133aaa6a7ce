package engine

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/waggle-lb/waggle/watcher"
)

// metrics of a source: where tasks come from.
type metrics struct {
	via      *prometheus.GaugeVec
	switches *prometheus.CounterVec
	lost     prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		via:      prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "waggle_tasks_via", Help: "1 for where the tasks of the picture in force come from: swarmkit (push) or engine (lists)."}, []string{"via"}),
		switches: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waggle_tasks_switches_total", Help: "Switches of where tasks come from, by where to."}, []string{"to"}),
		lost:     prometheus.NewCounter(prometheus.CounterOpts{Name: "waggle_push_lost_total", Help: "How often following the control socket ended or could not begin."}),
	}
	for _, via := range []string{watcher.ViaSwarmKit, watcher.ViaEngine} {
		m.via.WithLabelValues(via)
		m.switches.WithLabelValues(via)
	}
	return m
}

func (m *metrics) switched(via string, first bool) {
	for _, v := range []string{watcher.ViaSwarmKit, watcher.ViaEngine} {
		m.via.WithLabelValues(v).Set(0)
	}
	m.via.WithLabelValues(via).Set(1)
	if !first {
		m.switches.WithLabelValues(via).Inc()
	}
}

// Describe implements prometheus.Collector.
func (s *Source) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, ch) }

// Collect implements prometheus.Collector.
func (s *Source) Collect(ch chan<- prometheus.Metric) {
	s.metrics.via.Collect(ch)
	s.metrics.switches.Collect(ch)
	s.metrics.lost.Collect(ch)
}
