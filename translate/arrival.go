package translate

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	arrivalRetry = 250 * time.Millisecond // between attempts to reach a task that has just come
	arrivalAgain = 24 * time.Hour         // a task that was reached is looked after by ejection
)

// arrival lets requests go to a new task only after one connection to it was made.
// A task that runs may not be reachable yet from the proxy's node (Swarm spreads
// addresses by gossip, which takes from milliseconds to half a minute), or may not
// listen yet. Where several tasks come at once, as when a service is scaled, requests
// would run out of attempts among them, the more so as the least loaded task is one
// that answers nothing.
func (u upstream) arrival() *corev3.HealthCheck {
	return &corev3.HealthCheck{
		Timeout:                  durationpb.New(u.connectTimeout),
		HealthyThreshold:         wrapperspb.UInt32(1),
		UnhealthyThreshold:       wrapperspb.UInt32(1),
		UnhealthyInterval:        durationpb.New(arrivalRetry),
		UnhealthyEdgeInterval:    durationpb.New(arrivalRetry),
		NoTrafficInterval:        durationpb.New(arrivalRetry), // while nobody has asked, of those that were not reached
		NoTrafficHealthyInterval: durationpb.New(arrivalAgain),
		HealthyEdgeInterval:      durationpb.New(arrivalAgain),
		Interval:                 durationpb.New(arrivalAgain),
		HealthChecker:            &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}},
	}
}
