package identity

import "github.com/prometheus/client_golang/prometheus"

var (
	endsDesc = prometheus.NewDesc("waggle_xds_certificate_end_timestamp_seconds",
		"When the control plane's own certificate ends.", nil, nil)
	staleDesc = prometheus.NewDesc("waggle_xds_certificate_stale",
		"1 while the newest certificate files cannot be used and the ones before are in force.", nil, nil)
	refusedDesc = prometheus.NewDesc("waggle_xds_refused_total",
		"Clients of the xDS port that could not prove who they are.", nil, nil)
	insecureDesc = prometheus.NewDesc("waggle_xds_insecure",
		"1 where proxies are believed what their node ID says.", nil, nil)
)

// Describe implements prometheus.Collector.
func (g *Guard) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(g, ch) }

// Collect implements prometheus.Collector.
func (g *Guard) Collect(ch chan<- prometheus.Metric) {
	s := g.Status()
	value := func(d *prometheus.Desc, kind prometheus.ValueType, v float64) {
		ch <- prometheus.MustNewConstMetric(d, kind, v)
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	value(insecureDesc, prometheus.GaugeValue, flag(s.Insecure))
	if s.Insecure {
		return
	}
	value(endsDesc, prometheus.GaugeValue, float64(s.NotAfter.Unix()))
	value(staleDesc, prometheus.GaugeValue, flag(s.Problem != nil))
	value(refusedDesc, prometheus.CounterValue, float64(s.Refused))
}
