package lab

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/lab/echo"
	"github.com/waggle-lb/waggle/watcher"
)

// TestTracing is what an example of the label language cannot say: which spans reach a
// collector, and that tasks are told of the same ones.
func TestTracing(t *testing.T) {
	spans := newCollector(t)
	cfg := config.ForCollections(nil)
	cfg.Collections["default"].Tracing = config.Tracing{OTLP: spans.address, ServiceName: "edge"}
	b := benchFor(t, cfg)
	p := &watcher.Picture{Services: map[string]*watcher.Service{}}
	for name, labels := range map[string]map[string]string{
		"all":   {"trace_sampling": "100"},
		"half":  {"trace_sampling": "50%"},
		"none":  {"trace_sampling": "0"},
		"plain": {},
		"moved": {"trace_sampling": "100", "redirect": "https://new.example.com"},
		"asked": {"ext_auth": "plain"},
		"twin":  {"mirror": "plain"},
	} {
		s := &watcher.Service{ID: name, Name: name, Mode: watcher.Replicated, Replicas: 1, Labels: map[string]string{"lb.port": "80", "lb.hosts": name + ".test"}}
		for k, v := range labels {
			s.Labels["lb."+k] = v
		}
		p.Services[name] = s
	}
	b.apply(t, p)

	// ask sends a request with that traceparent and gives the one that reached the task.
	ask := func(t *testing.T, host, parent string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+b.proxy("default")+"/", nil)
		require.NoError(t, err)
		req.Host = host
		req.Header.Set("X-Client-Trace-Id", "clients do not decide")
		req.Header.Set("X-Envoy-Force-Trace", "true")
		if parent != "" {
			req.Header.Set("Traceparent", parent)
		}
		client := http.Client{
			Transport: &http.Transport{DisableKeepAlives: true}, Timeout: deadline,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		resp, err := client.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusFound {
			return ""
		}
		require.Equal(t, 200, resp.StatusCode)
		var at echo.Answer
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&at))
		require.Empty(t, at.Headers.Values("X-Waggle-Span"))
		require.LessOrEqual(t, len(at.Headers.Values("Traceparent")), 1)
		return at.Headers.Get("Traceparent")
	}
	const (
		trace     = "0af7651916cd43dd8448eb211c80319c"
		sampled   = "00-" + trace + "-b7ad6b7169203331-01"
		unsampled = "00-" + trace + "-b7ad6b7169203331-00"
	)
	var want []string // spans by their ID, as tasks were told

	t.Run("what arrives is left alone where nothing says trace_sampling", func(t *testing.T) {
		for _, host := range []string{"plain.test", "none.test", "asked.test", "twin.test"} {
			for _, parent := range []string{"", sampled, unsampled, "nonsense"} {
				require.Equal(t, parent, ask(t, host, parent), host)
			}
		}
	})

	t.Run("a task is told which span is above its own", func(t *testing.T) {
		own := ask(t, "all.test", "")
		require.Regexp(t, `^00-[0-9a-f]{32}-[0-9a-f]{16}-01$`, own)
		below := ask(t, "all.test", sampled)
		require.Regexp(t, `^00-`+trace+`-[0-9a-f]{16}-01$`, below)
		require.NotEqual(t, sampled, below)
		want = append(want, own, below)
		for _, parent := range []string{unsampled, "nonsense", "nonsense-01", strings.Replace(sampled, trace, strings.Repeat("0", 32), 1)} {
			require.Equal(t, parent, ask(t, "all.test", parent))
		}
		ask(t, "moved.test", "")
	})

	t.Run("a share is sampled, and no flag of a client is changed", func(t *testing.T) {
		yes, changed := 0, 0
		for range 100 {
			own := ask(t, "half.test", "")
			require.Regexp(t, `^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$`, own)
			if strings.HasSuffix(own, "-01") {
				yes++
				want = append(want, own)
			}
			below := ask(t, "half.test", sampled)
			require.Regexp(t, `^00-`+trace+`-[0-9a-f]{16}-01$`, below)
			if below != sampled {
				changed++
				want = append(want, below)
			}
			require.Equal(t, unsampled, ask(t, "half.test", unsampled))
		}
		require.InDelta(t, 50, yes, 30)
		require.InDelta(t, 50, changed, 30)
	})

	t.Run("the collector has these spans and no others", func(t *testing.T) {
		want = append(want, "moved")
		got := spans.wait(t, len(want))
		require.ElementsMatch(t, want, got)
	})
}

// traces is a collector that remembers what it was told.
type traces struct {
	address string
	mu      sync.Mutex
	spans   []string
	more    chan struct{}
}

// newCollector listens as OpenTelemetry's collector does. Envoy sends TracesData under
// another name.
func newCollector(t *testing.T) *traces {
	c := &traces{more: make(chan struct{}, 1)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c.address = l.Addr().String()
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			data := new(tracev1.TracesData)
			if err := decode(data); err != nil {
				return nil, err
			}
			c.add(data)
			return new(emptypb.Empty), nil
		}}},
	}, c)
	var running sync.WaitGroup
	running.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		running.Wait()
	})
	return c
}

// add notes spans as tasks are told of them, or by the name of their route where no
// task was asked.
func (c *traces) add(data *tracev1.TracesData) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range data.ResourceSpans {
		service := ""
		for _, a := range rs.Resource.GetAttributes() {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				is := "00-" + hex.EncodeToString(s.TraceId) + "-" + hex.EncodeToString(s.SpanId) + "-01"
				switch {
				case service != "edge" || s.Kind != tracev1.Span_SPAN_KIND_SERVER:
					is = "unexpected: " + service + " " + s.String()
				case s.Name == "moved":
					is = s.Name
				case s.Name != "all" && s.Name != "half":
					is = "unexpected: " + s.String()
				}
				c.spans = append(c.spans, is)
			}
		}
	}
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// wait gives what the collector was told as soon as it is n spans, and one export of
// Envoy's (every five seconds, or five spans) longer.
func (c *traces) wait(t *testing.T, n int) []string {
	t.Helper()
	enough := time.After(deadline)
	for {
		c.mu.Lock()
		got := append([]string(nil), c.spans...)
		c.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-c.more:
		case <-enough:
			require.Fail(t, "spans are missing", "%d of %d have come", len(got), n)
		}
	}
}
