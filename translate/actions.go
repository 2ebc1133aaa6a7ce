package translate

import (
	"fmt"
	"math"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waggle-lb/waggle/translate/labels"
)

const (
	// SafeSuffix marks the twin of a route for the methods that may be sent twice.
	SafeSuffix = "#safe"

	// retryAlways is safe for every method: the task has not seen the request.
	retryAlways    = "connect-failure,refused-stream,reset-before-request"
	defaultRetries = 2
	// Safe methods are also sent again after a reset. The router adds what this
	// header says to the retry policy and removes it; from clients it is not
	// believed. So a host needs one policy, not one for each route and twin: half
	// of its bytes, and of the work that Envoy has with a table.
	retryHeader = "x-envoy-retry-on"
	retrySafe   = "reset"
	safeMethods = "GET|HEAD|OPTIONS"

	retryBackOff    = 10 * time.Millisecond
	retryBackOffMax = 100 * time.Millisecond
	hostAttempts    = 5 // how often to look for a task that was not tried yet
)

// forwardAction is what a route that sends requests on does with them. Those who
// share the match have it in common: it is the oldest's.
func forwardAction(oldest *route, shares []weighted, stripRoot bool) *routev3.RouteAction {
	action := forwardTo(shares)
	action.Timeout = durationpb.New(oldest.label.Timeout)
	action.IdleTimeout = durationpb.New(oldest.label.IdleTimeout)
	if oldest.label.Retries != defaultRetries {
		action.RetryPolicy = retryPolicy(oldest.label.Retries)
	}
	if stripRoot {
		action.PrefixRewrite = "/"
	}
	return action
}

// weighted is one sharer of a match.
type weighted struct {
	claim  *claim
	weight uint32
}

// weigh gives every sharer its share: what weight says, else the desired
// replicas; none without a ready task, unless no sharer has one: then the shares
// stay, so that the answer is no_task. Nil: nobody takes anything.
func weigh(claims []*claim) []weighted {
	anySaid := false
	for _, c := range claims {
		anySaid = anySaid || c.route.label.Weight != nil
	}
	base := make([]uint64, len(claims))
	sum := uint64(0)
	for i, c := range claims {
		switch w := c.route.label.Weight; {
		case w != nil:
			base[i] = uint64(*w)
		case anySaid:
			base[i] = 100
		default:
			base[i] = replicas(c.route.svc.spec)
		}
		sum += base[i]
	}
	if sum == 0 { // scaled to nothing
		for i, c := range claims {
			if c.route.label.Weight == nil {
				base[i] = 1
				sum++
			}
		}
	}
	if sum == 0 { // all say 0
		return nil
	}
	shares := make([]uint64, len(claims))
	ready := uint64(0)
	for i, c := range claims {
		if c.route.backend.found.ready {
			shares[i] = base[i]
			ready += base[i]
		}
	}
	if ready == 0 {
		shares, ready = base, sum
	}
	// Envoy refuses a sum above 2³²−1: all are divided alike, nobody down to nothing.
	divisor := uint64(1)
	if ready > math.MaxUint32 {
		divisor = ready/(math.MaxUint32/2) + 1
	}
	out := make([]weighted, len(claims))
	for i, c := range claims {
		w := shares[i] / divisor
		if w == 0 && shares[i] > 0 {
			w = 1
		}
		out[i] = weighted{c, uint32(w)}
	}
	return out
}

func forwardTo(shares []weighted) *routev3.RouteAction {
	if len(shares) == 1 {
		return &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: shares[0].claim.route.backend.name}}
	}
	w := &routev3.WeightedCluster{}
	for _, s := range shares {
		w.Clusters = append(w.Clusters, &routev3.WeightedCluster_ClusterWeight{
			Name:   s.claim.route.backend.name,
			Weight: wrapperspb.UInt32(s.weight),
		})
	}
	return &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: w}}
}

// retryPolicy sends a request again where HTTP says that this is safe, and to a
// task that has not had it yet. Without retries it is empty, which is not the
// same as none: the host's policy would hold.
func retryPolicy(retries uint32) *routev3.RetryPolicy {
	if retries == 0 {
		return &routev3.RetryPolicy{}
	}
	return &routev3.RetryPolicy{
		RetryOn:    retryAlways,
		NumRetries: wrapperspb.UInt32(retries),
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
				TypedConfig: mustAny(&previoushostsv3.PreviousHostsPredicate{}),
			},
		}},
		HostSelectionRetryMaxAttempts: hostAttempts,
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: durationpb.New(retryBackOff),
			MaxInterval:  durationpb.New(retryBackOffMax),
		},
	}
}

// unlike names the options of Envoy's route, which sharers of a match have in
// common, that a sharer says otherwise than the oldest.
func unlike(a, b *labels.Route) string {
	var keys []string
	for _, o := range []struct {
		key  string
		same bool
	}{
		{"timeout", a.Timeout == b.Timeout},
		{"idle_timeout", a.IdleTimeout == b.IdleTimeout},
		{"retries", a.Retries == b.Retries},
	} {
		if !o.same {
			keys = append(keys, o.key)
		}
	}
	return strings.Join(keys, ", ")
}

func unlikeReason(keys, oldest string) string {
	return fmt.Sprintf("%s: services with the same host and path have this in common, and the oldest, %s, decides", keys, oldest)
}
