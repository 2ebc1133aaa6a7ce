package translate

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate/labels"
)

// Envoy refuses a route with more than a thousand headers: too many cost themselves
// alone, and the route is served.
func TestTooManyHeadersAreNotChanged(t *testing.T) {
	keys := map[string]string{"hosts": "a.test", "port": "80", "set_response_header.X-A": "1"}
	for i := range maxHeaders + 1 {
		keys[fmt.Sprintf("set_request_header.X-%d", i)] = "v"
	}
	w := newWorld()
	w.service("a_web", keys, stack("a"))
	b := w.build(t, testConfig())
	require.Equal(t, []string{"/* -> a_web:80"}, routeLines(b, "dev", "a.test"))
	require.Len(t, b.Problems(), 1)
	p := b.Problems()[0]
	require.Equal(t, labels.Warning, p.Severity)
	require.Contains(t, p.Label, "set_request_header")
	require.Contains(t, p.Reason, "the route changes 201 headers so, and 200 are taken")
}

// What Envoy's route says once is the oldest sharer's, and the other is told.
func TestSharersShapeAlike(t *testing.T) {
	w := newWorld()
	w.service("a_old", map[string]string{"hosts": "a.test", "port": "80", "compression": "gzip", "access_log": "true"}, stack("a"))
	w.service("a_new", map[string]string{"hosts": "a.test", "port": "80", "websocket": "false", "fault_abort": "503,1%", "fault_delay": "1s,1%", "set_response_header.X-New": "1"}, stack("a"))
	b := w.build(t, testConfig())
	require.Len(t, b.Problems(), 1)
	require.Equal(t, "a_new", b.Problems()[0].Service)
	require.Contains(t, b.Problems()[0].Reason, "compression, websocket, access_log, fault_delay, fault_abort: ")
}
