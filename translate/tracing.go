package translate

import (
	"cmp"
	"math"
	"net"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	headersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/waggle-lb/waggle/config"
)

// Tracing stands in the connection manager, and only where the collection has a
// collector of traces. Envoy's own way of handing traces on is switched off there,
// because it rewrites traceparent on every route, also where nothing is sampled.
// Observed with Envoy 1.40 on a route whose random_sampling is 0:
//
//   - a request with …-01 reached the task with …-00, whatever client_sampling and
//     overall_sampling of the route are, with and without spawn_upstream_span: the
//     flag is that of the client and Envoy's own decision together;
//   - the samplers always_on and parent_based change nothing about that;
//   - a request without traceparent got one with …-00, so that tasks whose own
//     sampler follows it would trace nothing any more.
//
// With no_context_propagation requests reach the task as they came. Routes that say
// trace_sampling switch on traceParent, which hands on what was decided. What the proxy
// itself sends (a question to ext_auth, the copy for a mirror) has a span of its own
// below that of the request, whatever is said there: where nothing is sampled, …-00.

// collectorTimeout is how long an export of spans may take; those that come
// meanwhile wait, Envoy keeps 1024 of them.
const collectorTimeout = 5 * time.Second

// collector is where the spans of a collection go. Its cluster is named like no
// other server's, because it is spoken to otherwise: "otlp+http://collector:4317".
func collector(c *config.Collection) (external, bool) {
	host, port, tls, err := c.Tracing.Collector()
	if c.Tracing.OTLP == "" || err != nil { // config refuses it
		return external{}, false
	}
	return external{tls: tls, host: host, port: port}, true
}

func collectorCluster(e external) string { return "otlp+" + e.cluster() }

// newCollectorCluster has no address where the collector is refused: the listener
// depends on the configuration alone, and this on what may be reached.
func newCollectorCluster(e external, refused string) *clusterv3.Cluster {
	m := newExternalCluster(e)
	m.Name = collectorCluster(e)
	m.LoadAssignment.ClusterName = m.Name
	if refused != "" {
		m.LoadAssignment.Endpoints = nil
	}
	m.TypedExtensionProtocolOptions = map[string]*anyMessage{httpProtocolOptions: mustAny(&httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}},
		}},
	})}
	return m
}

// collect makes the collector's cluster one of the collection's, for as long as the
// configuration names it.
func (c *collection) collect(b *Builder) {
	e, ok := collector(c.cfg)
	if !ok {
		return
	}
	c.noCollector = b.refusedServer(e)
	name := collectorCluster(e)
	c.refs[name]++
	c.touch(name, true)
}

// collectorRefs is what a listener needs beside its tables.
func collectorRefs(c *config.Collection) []Ref {
	if e, ok := collector(c); ok {
		return []Ref{{Cluster, collectorCluster(e)}}
	}
	return nil
}

// trace makes a connection manager trace what routes say. By itself it traces nothing,
// and what clients ask for (x-client-trace-id) is not done either.
func trace(m *hcmv3.HttpConnectionManager, c *config.Collection) {
	e, ok := collector(c)
	if !ok {
		return
	}
	m.Tracing = &hcmv3.HttpConnectionManager_Tracing{
		ClientSampling:       &typev3.Percent{},
		RandomSampling:       &typev3.Percent{},
		NoContextPropagation: true,
		Provider: &tracev3.Tracing_Http{
			Name: "envoy.tracers.opentelemetry",
			ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: mustAny(&tracev3.OpenTelemetryConfig{
				ServiceName: cmp.Or(c.Tracing.ServiceName, "waggle-"+c.Name),
				GrpcService: &corev3.GrpcService{
					TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
						ClusterName: collectorCluster(e),
						Authority:   net.JoinHostPort(e.host, strconv.Itoa(int(e.port))),
					}},
					Timeout: durationpb.New(collectorTimeout),
				},
			})},
		},
	}
}

// traceParent is trace_sampling: it tells the task which span its own belong to.
//
//   - A request that is sampled, or whose client did not trace: the proxy's own span,
//     with its decision. Tasks that follow it trace the same requests.
//   - A request that comes with a traceparent and is not sampled here, or not there:
//     as it came. So the flag of a client's trace is never changed.
//
// Whether a request is sampled is known from x-request-id, where Envoy marks it. One
// that a trusted proxy brings is kept: a request whose own is no UUID is never traced.
var traceParent = &httpFilter{
	name: "trace_parent",
	in:   func(c *config.Collection) bool { return c.Tracing.OTLP != "" },
	chain: func() proto.Message {
		set := func(name, format string) *mutationv3.HeaderMutation {
			return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Append{Append: setHeader(name, format)}}
		}
		return &headersv3.HeaderMutation{Mutations: &headersv3.Mutations{RequestMutations: []*mutationv3.HeaderMutation{
			set(ownSpan, "00-%TRACE_ID%-%SPAN_ID%-%CEL("+sampled+" ? '01' : '00')%"),
			set("traceparent", "%CEL("+handedOn+" ? "+own+" : "+theirs+")%"), // nothing is set where there is neither
			{Action: &mutationv3.HeaderMutation_Remove{Remove: ownSpan}},
		}}}
	},
	on: func(r *route) (validator, error) {
		if r.label.TraceSampling == 0 {
			return nil, nil
		}
		coll := r.svc.coll
		switch {
		case coll.cfg.Tracing.OTLP == "":
			return nil, errorAt("trace_sampling", "set tracing.otlp of collection "+coll.name+" in waggle.yml, such as `tracing: {otlp: \"collector:4317\"}`, or remove the label",
				"collection %s has no collector that traces could be sent to, so nothing is traced", coll.name)
		case coll.noCollector != "":
			return nil, errorAt("trace_sampling", "set tracing.otlp of collection "+coll.name+" in waggle.yml to a server that the proxies may reach",
				"the collector %s is refused (%s), so nothing is traced", coll.cfg.Tracing.OTLP, coll.noCollector)
		}
		return &routev3.FilterConfig{Config: &anypb.Any{}}, nil // as it stands in the chain
	},
}

// Expressions of CEL. Envoy bounds the size of patterns in them: one for a whole
// traceparent is too large.
const (
	ownSpan  = "x-waggle-span" // only between the steps above
	own      = "request.headers['" + ownSpan + "']"
	theirs   = "request.headers['traceparent']"
	sampled  = "request.headers['x-request-id'].matches('^[!-~]{14}[9ab]')"
	isSpan   = own + ".size() == 55" // a broken traceparent gives the request no span
	isTheirs = "'traceparent' in request.headers"
	handedOn = isSpan + " && (!(" + isTheirs + ") || " + own + ".endsWith('1') && " + theirs + ".matches('-[0-9a-f][13579bdf]$'))"
)

// traced says which share of a route's requests is sampled. Envoy compares it with a
// number below ten thousand, however fine the share is.
func traced(e *routev3.Route, r *route) {
	if r.filters[traceParent.name] == nil {
		return
	}
	e.Tracing = &routev3.Tracing{
		ClientSampling: &typev3.FractionalPercent{},
		RandomSampling: &typev3.FractionalPercent{
			Numerator: uint32(math.Ceil(r.label.TraceSampling * 100)), Denominator: typev3.FractionalPercent_TEN_THOUSAND,
		},
		Operation: formatLiteral(r.name),
	}
}
