package xds

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
)

// gather is the server's metrics as text, one series a line.
func gather(s *Server) (string, error) {
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(s); err != nil {
		return "", err
	}
	families, err := registry.Gather()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			b.WriteString(f.GetName() + " " + m.String() + "\n")
		}
	}
	return b.String(), nil
}

func TestMetrics(t *testing.T) {
	r := start(t, Options{}, "dev", "prod")
	r.publish(t, shop("dev", 4))
	c := envoylike.New(envoylike.Options{Node: "dev/1", Reject: func(kind translate.Kind, name, _ string) string {
		if kind == translate.Secret || name == "bad" {
			return "no"
		}
		return ""
	}})
	connect(t, c, r.addr)
	r.reaches(t, c, "dev")
	r.settles(t, 1)
	text, err := gather(r.Server)
	require.NoError(t, err)
	series := func(name string, parts ...string) {
		t.Helper()
		for line := range strings.Lines(text) {
			ok := strings.HasPrefix(line, name+" ")
			for _, p := range parts {
				ok = ok && strings.Contains(strings.ReplaceAll(line, "  ", " "), p)
			}
			if ok {
				return
			}
		}
		require.Fail(t, "no such series", "%s %v in\n%s", name, parts, text)
	}
	series("waggle_xds_streams", `value:"dev"`, "value:1")
	series("waggle_xds_streams", `value:"prod"`, "value:0")
	series("waggle_xds_streams_current", `value:"dev"`, "value:1")
	series("waggle_xds_resources", `value:"dev"`, `value:"clusters"`, "value:4")
	series("waggle_xds_publishes_total", `value:"dev"`, "value:1")
	series("waggle_xds_generation", `value:"dev"`, "value:1")
	series("waggle_xds_ack_latency_seconds", `value:"clusters"`, "sample_count:1")
	require.NotContains(t, text, "waggle_xds_last_publish_timestamp_seconds label:{name:\"collection\" value:\"prod\"")
	for line := range strings.Lines(text) {
		require.NotContains(t, line, "dev/1", "no series per proxy")
	}
}
