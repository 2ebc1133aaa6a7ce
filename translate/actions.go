package translate

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	previousprioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waggle-lb/waggle/translate/labels"
)

const (
	// SafeSuffix marks the twin of a route for the methods that may be sent twice.
	SafeSuffix = "#safe"

	defaultRetries = 2
	localRetries   = 4 // see retriesOf
	// Safe methods are also sent again after a reset. The router adds what these
	// headers say to the retry policy and removes them; from clients they are not
	// believed. So a host needs one policy, not one for each route and twin: half
	// of its bytes, and of the work that Envoy has with a table.
	retryHeader     = "x-envoy-retry-on"
	retryHeaderGRPC = "x-envoy-retry-grpc-on"

	retryBackOff    = 10 * time.Millisecond
	retryBackOffMax = 100 * time.Millisecond
	hostAttempts    = 5 // how often to look for a task that was not tried yet
)

// defaultRetryMethods may be sent twice.
var defaultRetryMethods = []string{"GET", "HEAD", "OPTIONS"}

// What nearly every route says, made once: messages that nobody changes.
var (
	standardRetryOn = strings.Join(labels.RetryAlways, ",")
	standardRetries = retryPolicy(defaultRetries, standardRetryOn)
	standardAgain   = []*corev3.HeaderValueOption{setHeader(retryHeader, formatLiteral("reset"))}
	standardMethods = newMethodMatcher(defaultRetryMethods)
)

// forwardAction is what a route that sends requests on does with those that
// match. Those who share the match have it in common: it is the oldest's.
func forwardAction(oldest *route, shares []weighted, stripRoot bool, match *routev3.RouteMatch) *routev3.RouteAction {
	l := oldest.label
	action := forwardTo(shares)
	action.Timeout = durationpb.New(l.Timeout)
	action.IdleTimeout = durationpb.New(l.IdleTimeout)
	if l.Protocol == "grpc" {
		// The client's own deadline holds, whatever it is.
		action.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{GrpcTimeoutHeaderMax: durationpb.New(0)}
	}
	always := retriedAlways(l)
	standIn := slices.ContainsFunc(shares, func(w weighted) bool { return w.claim.route.backend.settings.fallback != "" })
	retries := retriesOf(l)
	if retries != defaultRetries || l.PerTryTimeout > 0 || standIn || always != standardRetryOn {
		action.RetryPolicy = retryPolicy(retries, always)
		if l.PerTryTimeout > 0 {
			action.RetryPolicy.PerTryTimeout = durationpb.New(l.PerTryTimeout)
		}
		if standIn && retries > 0 {
			action.RetryPolicy.RetryPriority = lastTryElsewhere(retries)
		}
	}
	if stripRoot {
		action.PrefixRewrite = "/"
	} else {
		rewritePath(action, l, match)
	}
	if host := oldest.hostSent(); host != "" && len(shares) == 1 {
		action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: host}
	}
	action.HashPolicy = hashPolicies(l)
	// The hash chooses among services that share the match, too: a client stays with one.
	if w := action.GetWeightedClusters(); w != nil && len(action.HashPolicy) > 0 {
		w.RandomValueSpecifier = &routev3.WeightedCluster_UseHashPolicy{UseHashPolicy: wrapperspb.Bool(true)}
	}
	if l.NoWebSocket() {
		action.UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{UpgradeType: "websocket", Enabled: wrapperspb.Bool(false)}}
	}
	if oldest.mirror != "" {
		action.RequestMirrorPolicies = []*routev3.RouteAction_RequestMirrorPolicy{{
			Cluster:         oldest.mirror,
			RuntimeFraction: fraction(l.Mirror.Percent),
			// The copy is like the original.
			DisableShadowHostSuffixAppend: true,
		}}
	}
	return action
}

// checkDestination looks for labels that cannot all hold. Where it is not known
// which path is meant, the route is broken.
func (r *route) checkDestination() {
	l := r.label
	tell := func(sev labels.Severity, key, hint, reason string, args ...any) {
		p := r.problem(sev, key, fmt.Sprintf(reason, args...))
		p.Hint = hint
		r.svc.problems = append(r.svc.problems, p)
	}
	var rewriting []string
	for _, k := range []struct {
		key string
		on  bool
	}{
		{"context_root_rewrite", l.ContextRootRewrite && l.ContextRoot != "/"},
		{"rewrite_path", l.RewritePath != ""},
		{"rewrite_regex", l.RewriteRegex.Pattern != ""},
	} {
		if k.on {
			rewriting = append(rewriting, k.key)
		}
	}
	if len(rewriting) > 1 {
		r.broken = true
		tell(labels.Error, rewriting[len(rewriting)-1], "keep one of them", "%s say what becomes of the path, and only one can: the route is not served, what it claims answers 503", strings.Join(rewriting, " and "))
	}

	hashing := l.LBPolicy == "ring_hash" || l.LBPolicy == "maglev"
	switch {
	case hashing && !hashes(l):
		tell(labels.Warning, "lb_policy", "add hash_on", "nothing says what is hashed: tasks are chosen at random")
	case l.LBPolicy != "" && !hashing && hashes(l):
		tell(labels.Warning, "lb_policy", "write ring_hash or maglev", "%s hashes nothing, and another label says what is hashed: ring_hash holds", l.LBPolicy)
	}
	if l.SlowStart > 0 && !warmsUp(policyOf(l)) {
		tell(labels.Warning, "slow_start", "lb_policy: least_request or round_robin", "this way of choosing tasks knows no slow start: new tasks get their share at once")
	}
	if l.PreferLocal && !knowsNodes(policyOf(l)) {
		tell(labels.Warning, "prefer_local", "lb_policy: least_request, round_robin or random", "what is hashed decides which task is taken, wherever it is")
	}
	if l.NoWebSocket() && l.WebSocket == nil && l.Labels["websocket_endpoints"] != "" {
		instead, says := "auto", l.Protocol+" is HTTP/2"
		if l.SSLBackend {
			instead = "http1"
		}
		if l.Protocol == "auto" {
			says = "over TLS auto is HTTP/2 with a task that has it"
		}
		tell(labels.Warning, "websocket_endpoints", r.key("protocol")+": "+instead+", or "+r.key("websocket")+": true where the task takes extended CONNECT (RFC 8441)",
			"%s, where few servers take WebSockets: upgrades are answered with 403", says)
	}
	if l.HealthPath == "" {
		for _, key := range []string{"health_interval", "health_timeout", "health_rise", "health_fall"} {
			if label, said := l.Labels[key]; said && !strings.HasPrefix(label, "defaults: ") {
				tell(labels.Warning, key, "add health_path", "without health_path nothing is checked")
			}
		}
	}
	if r.svc.reach.mode == labels.VIPMode {
		for _, key := range []string{"sticky_sessions", "sticky_session_cookie", "hash_on", "ip_hash", "lb_policy", "prefer_local"} {
			if label, said := l.Labels[key]; said && !strings.HasPrefix(label, "defaults: ") {
				tell(labels.Warning, key, "backend_mode: task", "behind the virtual address Swarm chooses the task, not the proxy")
			}
		}
	}
}

// hostSent is the Host header that reaches the task; "" as the client sent it.
func (r *route) hostSent() string {
	if r.label.RewriteHost == "auto" {
		return r.svc.name
	}
	return r.label.RewriteHost
}

// rewritePath makes the path what the labels say, for requests that match.
func rewritePath(action *routev3.RouteAction, l *labels.Route, match *routev3.RouteMatch) {
	if rx := l.RewriteRegex; rx.Pattern != "" {
		action.RegexRewrite = replace(rx.Pattern, rx.Replacement)
		return
	}
	to := l.RewritePath
	if to == "" {
		return
	}
	switch prefix := match.GetPathSeparatedPrefix(); {
	case match.GetPrefix() == "/":
		// Envoy puts it in the place of the slash: /new and x would be /newx.
		action.PrefixRewrite = strings.TrimSuffix(to, "/") + "/"
	case prefix != "" && strings.HasSuffix(to, "/"):
		// /app/x would be //x.
		action.RegexRewrite = replace("^"+regexp.QuoteMeta(prefix)+"/?", strings.ReplaceAll(to, `\`, `\\`))
	default:
		action.PrefixRewrite = to
	}
}

func replace(pattern, with string) *matcherv3.RegexMatchAndSubstitute {
	return &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: pattern}, Substitution: with}
}

// hashPolicies say what is hashed: the first that a request has.
func hashPolicies(l *labels.Route) []*routev3.RouteAction_HashPolicy {
	var out []*routev3.RouteAction_HashPolicy
	ip := func() *routev3.RouteAction_HashPolicy {
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
		}}
	}
	cookie := func(c *routev3.RouteAction_HashPolicy_Cookie) *routev3.RouteAction_HashPolicy {
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Cookie_{Cookie: c}}
	}
	switch on := l.HashOn; on.What {
	case "ip":
		out = append(out, ip())
	case "header":
		out = append(out, &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Header_{
			Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: on.Name},
		}})
	case "query":
		out = append(out, &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_QueryParameter_{
			QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: on.Name},
		}})
	case "cookie":
		out = append(out, cookie(&routev3.RouteAction_HashPolicy_Cookie{Name: on.Name}))
	}
	if l.StickySessionCookie != "" {
		out = append(out, cookie(&routev3.RouteAction_HashPolicy_Cookie{Name: l.StickySessionCookie}))
	}
	if l.IPHash {
		out = append(out, ip())
	}
	for _, p := range out {
		p.Terminal = true
	}
	return out
}

// fraction is a percentage in millionths.
func fraction(percent float64) *corev3.RuntimeFractionalPercent {
	return &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{
		Numerator: uint32(math.Round(percent * 10_000)), Denominator: typev3.FractionalPercent_MILLION,
	}}
}

// retriedAlways are the words for which a request of any method is sent again.
func retriedAlways(l *labels.Route) string {
	if l.RetryOn == nil {
		return standardRetryOn
	}
	return strings.Join(slices.DeleteFunc(slices.Clone(l.RetryOn), func(w string) bool { return !slices.Contains(labels.RetryAlways, w) }), ",")
}

// sentTwice gives the methods of the twin of a route, those that may be sent twice,
// and what it adds to their requests; none where it needs no twin.
func sentTwice(l *labels.Route) (methods []string, headers []*corev3.HeaderValueOption) {
	headers = standardAgain
	if l.RetryOn != nil {
		var words, grpc []string
		for _, w := range l.RetryOn {
			switch {
			case slices.Contains(labels.RetryGRPC, w):
				grpc = append(grpc, w)
			case !slices.Contains(labels.RetryAlways, w):
				words = append(words, w)
			}
		}
		headers = nil
		for _, h := range []struct {
			name  string
			words []string
		}{{retryHeader, words}, {retryHeaderGRPC, grpc}} {
			if len(h.words) > 0 {
				headers = append(headers, setHeader(h.name, formatLiteral(strings.Join(h.words, ","))))
			}
		}
	}
	safe := l.RetryMethods
	if safe == nil {
		safe = defaultRetryMethods
	}
	if l.Retries == 0 || len(headers) == 0 || len(safe) == 0 {
		return nil, nil
	}
	return safe, headers
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
		c := &routev3.WeightedCluster_ClusterWeight{
			Name:   s.claim.route.backend.name,
			Weight: wrapperspb.UInt32(s.weight),
		}
		if host := s.claim.route.hostSent(); host != "" {
			c.HostRewriteSpecifier = &routev3.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: host}
		}
		shapedShare(c, s.claim.route)
		w.Clusters = append(w.Clusters, c)
	}
	return &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: w}}
}

// retriesOf is how often a request is sent again. Where the proxy's own node comes
// first, retries stay there until the only task of it is set aside, which Envoy's main
// thread decides: where connections are refused at once, two of them came too early for
// 19 of 480 tasks that died, four for none.
func retriesOf(l *labels.Route) uint32 {
	if l.PreferLocal && knowsNodes(policyOf(l)) && l.Labels["retries"] == "" {
		return localRetries
	}
	return l.Retries
}

// retryPolicy sends a request again where HTTP says that this is safe, and to a
// task that has not had it yet. Without retries it is empty, which is not the
// same as none: the host's policy would hold.
func retryPolicy(retries uint32, on string) *routev3.RetryPolicy {
	if retries == 0 {
		return &routev3.RetryPolicy{}
	}
	return &routev3.RetryPolicy{
		RetryOn:    on,
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

// lastTryElsewhere sends the last attempt to the service that stands in, where a
// request met dead tasks alone that Envoy has not ejected yet.
func lastTryElsewhere(retries uint32) *routev3.RetryPolicy_RetryPriority {
	return &routev3.RetryPolicy_RetryPriority{
		Name: "envoy.retry_priorities.previous_priorities",
		ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{
			TypedConfig: mustAny(&previousprioritiesv3.PreviousPrioritiesConfig{UpdateFrequency: int32(min(retries, math.MaxInt32))}),
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
		{"retry_on", slices.Equal(a.RetryOn, b.RetryOn) && (a.RetryOn == nil) == (b.RetryOn == nil)},
		{"retry_methods", slices.Equal(a.RetryMethods, b.RetryMethods) && (a.RetryMethods == nil) == (b.RetryMethods == nil)},
		{"protocol", (a.Protocol == "grpc") == (b.Protocol == "grpc")}, // deadlines; the rest is each one's own
		{"per_try_timeout", a.PerTryTimeout == b.PerTryTimeout},
		{"hash_on", a.HashOn == b.HashOn},
		{"sticky_session_cookie", a.StickySessionCookie == b.StickySessionCookie},
		{"ip_hash", a.IPHash == b.IPHash},
		{"sticky_sessions", a.StickySessions == b.StickySessions},
		{"mirror", a.Mirror == b.Mirror},
		{"compression", slices.Equal(a.Compression, b.Compression)},
		{"websocket", a.NoWebSocket() == b.NoWebSocket()},
		{"access_log", same(a.AccessLog, b.AccessLog)},
		{"trace_sampling", a.TraceSampling == b.TraceSampling},
		{"fault_delay", same(a.FaultDelay, b.FaultDelay)},
		{"fault_abort", same(a.FaultAbort, b.FaultAbort)},
	} {
		if !o.same {
			keys = append(keys, o.key)
		}
	}
	return strings.Join(keys, ", ")
}

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// rewrites is what becomes of a path before it reaches the task. Envoy's route
// says it once: services that share a match must agree.
func rewrites(l *labels.Route) [3]string {
	return [3]string{l.RewritePath, l.RewriteRegex.Pattern, l.RewriteRegex.Replacement}
}

// wanders says why a session does not hold among services that share a match, ""
// where it does: the service is chosen before the cookie is looked at.
func wanders(l *labels.Route) string {
	if l.StickySessions.Cookie == "" || hashes(l) {
		return ""
	}
	return "another service has the same host and path: a session holds within a service, not between them"
}

func unlikeReason(keys, oldest string) string {
	return fmt.Sprintf("%s: services with the same host and path have this in common, and the oldest, %s, decides", keys, oldest)
}
