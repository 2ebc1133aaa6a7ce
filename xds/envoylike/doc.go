// Package envoylike is a delta ADS client that behaves like Envoy, for tests: it
// subscribes in Envoy's order, warms clusters and listeners, withholds the
// acknowledgement of clusters that are not warm, applies a part of what it rejects,
// and on a new stream lists what it last acknowledged. After every message it checks
// that nothing it has names something that it has not.
//
// What it imitates was observed with Envoy 1.40.
package envoylike
