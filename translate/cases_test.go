package translate_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"gopkg.in/yaml.v3"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/cases"
	"github.com/waggle-lb/waggle/translate/cases/certs"
	"github.com/waggle-lb/waggle/translate/render"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/stackfile"
)

var update = flag.Bool("update", false, "write the golden projections of the cases")

// TestCases compares what each example of the label language is translated to with
// the projection beside it: hosts, routes in their order, and of clusters what
// differs from one without any label. lab sends the requests.
func TestCases(t *testing.T) {
	all, err := cases.Load("cases")
	require.NoError(t, err)
	require.NotEmpty(t, all)
	for _, c := range all {
		t.Run(c.Name, func(t *testing.T) {
			b := buildCase(t, c)

			var told []cases.Problem
			for _, p := range b.Problems() {
				told = append(told, cases.Problem{
					Severity: string(p.Severity), Service: p.Service, Label: p.Label, Value: p.Value, Reason: p.Reason, Hint: p.Hint, Winner: p.Winner,
				})
			}
			require.Empty(t, c.Compare(told))

			got := project(t, b.Resources("default"))
			golden := strings.TrimSuffix(c.File, ".yml") + ".golden"
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err, "go test ./translate -run TestCases -update writes it")
			require.Equal(t, string(want), got, "go test ./translate -run TestCases -update, then read the difference")
		})
	}
}

// buildCase translates a case, with certificates made for it.
func buildCase(t *testing.T, c cases.Case) *translate.Builder {
	t.Helper()
	dir := t.TempDir()
	made, env, err := certs.For(c, dir)
	require.NoError(t, err)
	ca, err := made.Authority()
	require.NoError(t, err)
	p, _, err := stackfile.Load(t.Context(), stackfile.Options{Files: []string{c.File}, Stack: c.Stack, Env: env})
	require.NoError(t, err)
	cfg := config.ForCollections(nil)
	if len(c.Config) > 0 {
		collection := c.ConfigIn(dir)
		collection["default"] = true
		raw, err := yaml.Marshal(map[string]any{"collections": map[string]any{"default": collection}})
		require.NoError(t, err)
		cfg, _, err = config.Parse(raw, nil)
		require.NoError(t, err)
	}
	material, errs := secrets.OfFiles(cfg, p)
	require.Empty(t, errs)
	return translate.Build(translate.Input{Picture: p, Config: cfg, Material: material.WithLocal(ca).With(cases.Answers())})
}

// project shows what matters of a collection's resources: what differs from those
// of a service that says nothing but a host and a port.
func project(t *testing.T, res translate.Resources) string {
	t.Helper()
	var b strings.Builder
	plain := plainResources()
	usual := routesByName(t, plain)
	hosts := map[string]string{}
	for _, vh := range virtualHosts(res) {
		if vh.Name == "*" && proto.Equal(vh, last(virtualHosts(plain))) {
			continue // nobody has it
		}
		hosts[vh.Name] = projectHost(t, vh, usual)
		b.WriteString(hosts[vh.Name])
	}
	projectSecure(t, &b, res, hosts, usual)
	ordinary := tree(t, plain[translate.Cluster]["plain:80"].Message)
	for _, name := range sorted(res[translate.Cluster]) {
		kept := beside(tree(t, res[translate.Cluster][name].Message), ordinary).(map[string]any)
		delete(kept, "name")
		n := 0
		if e := res[translate.Endpoints][name]; e != nil {
			for _, l := range e.Message.(*endpointv3.ClusterLoadAssignment).Endpoints {
				n += len(l.LbEndpoints)
			}
		}
		fmt.Fprintf(&b, "cluster %s, endpoints: %d %s\n", name, n, text(t, kept))
	}
	for _, name := range sorted(res[translate.Secret]) { // what is in them, the room of secrets tests
		fmt.Fprintf(&b, "%s %s\n", translate.Secret, name)
	}
	for _, name := range sorted(res[translate.Extension]) {
		if strings.HasPrefix(name, "https") {
			fmt.Fprintf(&b, "manager %s\n", name) // the same for everyone
			continue
		}
		is := text(t, tree(t, res[translate.Extension][name].Message))
		if was := plain[translate.Extension][name]; was == nil || is != text(t, tree(t, was.Message)) {
			fmt.Fprintf(&b, "%s %s %s\n", translate.Extension, name, is)
		}
	}
	return b.String()
}

// projectHost shows a virtual host.
func projectHost(t *testing.T, vh *routev3.VirtualHost, usual map[bool]map[string]any) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "host %s\n", vh.Name)
	twin := "" // the route before, if it is the same for the methods that may be sent twice
	for _, r := range vh.Routes {
		name, safe := strings.CutSuffix(r.Name, translate.SafeSuffix)
		line := tree(t, r).(map[string]any)
		match := line["match"].(map[string]any)
		if safe {
			less(match, usual[true]["match"].(map[string]any))
		}
		kept := beside(line, usual[safe]).(map[string]any)
		delete(kept, "name")
		delete(kept, "match")
		shown := fmt.Sprintf("  %s\n    -> %s\n", text(t, match), text(t, kept))
		switch {
		case safe:
			fmt.Fprintf(&b, "  %s, safe methods\n  %s", name, shown)
			twin = name + shown
		case twin == name+shown:
			fmt.Fprintf(&b, "  %s, the others alike\n", name)
		default:
			fmt.Fprintf(&b, "  %s\n  %s", name, shown)
		}
	}
	return b.String()
}

// projectSecure shows what is else over TLS: who is served there, and how.
func projectSecure(t *testing.T, b *strings.Builder, res translate.Resources, plain map[string]string, usual map[bool]map[string]any) {
	t.Helper()
	if l := res[translate.Listener]["https"]; l != nil {
		for _, c := range l.Message.(*listenerv3.Listener).FilterChains {
			is := tree(t, c).(map[string]any)
			kept, _ := is["transport_socket"].(map[string]any)
			way := "by " + text(t, kept["typed_config"])
			if kept == nil {
				way = "passed through by " + text(t, is["filters"])
			}
			fmt.Fprintf(b, "https %s for %s, %s\n", c.Name, strings.Join(c.GetFilterChainMatch().GetServerNames(), " "), way)
		}
	}
	for _, name := range sorted(res[translate.Routes]) {
		if name == "http" {
			continue
		}
		var alike []string
		for _, vh := range res[translate.Routes][name].Message.(*routev3.RouteConfiguration).VirtualHosts {
			if is := projectHost(t, vh, usual); is != plain[vh.Name] {
				fmt.Fprintf(b, "table %s, %s", name, is)
			} else {
				alike = append(alike, vh.Name)
			}
		}
		fmt.Fprintf(b, "table %s, as in plain HTTP: %s\n", name, strings.Join(alike, " "))
	}
}

// plainResources are those of one plain service.
func plainResources() translate.Resources {
	labels := map[string]string{"lb.hosts": "plain.example.com", "lb.port": "80"}
	p := &watcher.Picture{Static: true, Services: map[string]*watcher.Service{
		"plain": {ID: "plain", Name: "plain", Labels: labels, Mode: watcher.Replicated, Replicas: 1},
	}}
	return translate.Build(translate.Input{Picture: p, Config: config.ForCollections(nil)}).Resources("default")
}

// routesByName gives the route of the plain service and, under true, its twin for safe methods.
func routesByName(t *testing.T, res translate.Resources) map[bool]map[string]any {
	t.Helper()
	out := map[bool]map[string]any{}
	for _, r := range virtualHosts(res)[0].Routes {
		_, safe := strings.CutSuffix(r.Name, translate.SafeSuffix)
		out[safe] = tree(t, r).(map[string]any)
		delete(out[safe]["route"].(map[string]any), "cluster") // whose it is, is always shown
	}
	return out
}

func virtualHosts(res translate.Resources) []*routev3.VirtualHost {
	return res[translate.Routes]["http"].Message.(*routev3.RouteConfiguration).VirtualHosts
}

func last[T any](all []T) T { return all[len(all)-1] }

// less takes out of a match the headers that the usual one has as well.
func less(match, usual map[string]any) {
	headers, _ := match["headers"].([]any)
	headers = slices.DeleteFunc(headers, func(h any) bool {
		return slices.ContainsFunc(usual["headers"].([]any), func(u any) bool { return reflect.DeepEqual(h, u) })
	})
	if match["headers"] = headers; len(headers) == 0 {
		delete(match, "headers")
	}
}

// beside gives what own says and plain does not, or says otherwise.
func beside(own, plain any) any {
	a, isMap := own.(map[string]any)
	b, wasMap := plain.(map[string]any)
	if !isMap || !wasMap {
		return own
	}
	out := map[string]any{}
	for k, v := range a {
		if w, has := b[k]; !has {
			out[k] = v
		} else if !reflect.DeepEqual(v, w) {
			out[k] = beside(v, w)
		}
	}
	return out
}

func sorted(m map[string]*translate.Resource) []string { return slices.Sorted(maps.Keys(m)) }

func tree(t *testing.T, m proto.Message) any {
	t.Helper()
	v, err := render.Resource(m)
	require.NoError(t, err)
	return v
}

func text(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return string(raw)
}
