package admin

import (
	"bytes"
	"maps"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/explain"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/xds"
	"github.com/waggle-lb/waggle/xds/envoylike"
)

// What a proxy rejects is a problem of whoever brought it, wherever problems are shown.
func TestRejectionsAreProblemsOfTheirServices(t *testing.T) {
	s := &server{}
	h := handler(newTestAPI(built(twoCollections(), shop()), s), "")
	labelled := get[api.Problems](t, h, "/api/v1/problems").Problems
	before := get[api.Collections](t, h, "/api/v1/collections").Collections[1]
	require.NotNil(t, before.Quarantine)
	require.Nil(t, before.Canary)

	s.mu.Lock()
	s.held = []xds.Quarantined{
		{Collection: "prod", Kind: translate.Cluster, Name: "shop_api:9090", Rejected: "2", Serving: "1", Since: epoch, Proxies: 2, Message: "no such policy"},
		{Collection: "prod", Kind: translate.Endpoints, Name: "thief:80", Rejected: "2", Message: "malformed IP address"},
		{Collection: "prod", Kind: translate.Cluster, Name: "https://outside.example.com:443", Rejected: "2", Message: "cannot resolve"},
		{Collection: "prod", Kind: translate.Listener, Name: "http"},
		{Collection: "prod", Kind: translate.Routes, Name: "http", Serving: "x", Hosts: []string{"shop.example.com", "thief.example.com"}, Closed: []string{"thief.example.com"}, Message: "missing )"},
		{Collection: "dev", Kind: translate.Cluster, Name: "shop_api:9090", Message: "not that one"},
	}
	s.trials = []xds.Trial{{Collection: "prod", Since: epoch, Canaries: []string{"prod/1"}, Changes: 3}}
	s.mu.Unlock()

	const until = " is served until the labels change"
	errorOf := func(service, reason, hint string) api.Problem {
		return api.Problem{Severity: labels.Error, Service: service, Collection: "prod", Reason: reason, Hint: hint}
	}
	own := func(service string) (out []api.Problem) {
		for _, p := range get[api.Problems](t, h, "/api/v1/problems?collection=prod&severity=error&service="+service).Problems {
			if p.Label == "" {
				out = append(out, p)
			}
		}
		return out
	}
	const before1 = "what proxies accepted of it before is served, and nothing of what is new, until the labels change"
	require.Equal(t, []api.Problem{
		errorOf("shop_api", "a proxy rejected the newest version of cluster shop_api:9090: no such policy", "the version that proxies accepted before"+until),
		errorOf("shop_api", "a proxy rejected the newest version of shop.example.com in route table http: missing )", before1),
	}, own("shop_api"))
	require.Equal(t, []api.Problem{
		errorOf("shop_web", "a proxy rejected the newest version of shop.example.com in route table http: missing )", before1),
	}, own("shop_web"))
	require.Equal(t, []api.Problem{
		errorOf("thief", "a proxy rejected endpoints of cluster thief:80: malformed IP address", "nothing is served in its place, because it is new; change the labels"),
		errorOf("thief", "a proxy rejected the newest version of thief.example.com in route table http: missing )", "503 is answered until the labels change: who may pass is different, and the version before would let others in"),
	}, own("thief"))

	all := get[api.Problems](t, h, "/api/v1/problems").Problems
	require.Len(t, all, len(labelled)+8)
	require.Contains(t, all, errorOf("", "a proxy rejected cluster https://outside.example.com:443: cannot resolve", "nothing is served in its place, because it is new; change the labels"))
	require.Contains(t, all, errorOf("", "a proxy rejected listener http: it did not say why", "nothing is served in its place, because it is new; change the labels"))

	now := get[api.Collections](t, h, "/api/v1/collections").Collections[1]
	require.Equal(t, before.Problems.Error+7, now.Problems.Error)
	require.Equal(t, &api.Canary{Since: epoch, Proxies: []string{"prod/1"}, Changes: 3}, now.Canary)
	require.Len(t, now.Quarantine, 5)
	require.Equal(t, api.Quarantined{
		Kind: "clusters", Name: "shop_api:9090", Hosts: []string{}, Closed: []string{}, Rejected: "2", Serving: "1", Since: epoch, Proxies: 2, Message: "no such policy",
	}, now.Quarantine[0])
	detail := get[api.ServiceDetail](t, h, "/api/v1/services/shop_api")
	require.Contains(t, detail.Problems, own("shop_api")[0])
	require.Contains(t, get[explain.Answer](t, h, "/api/v1/explain?url=http://shop.example.com/").Because,
		"a proxy rejected the newest version of shop.example.com in route table http: missing ); "+before1)

	s.mu.Lock()
	s.held, s.trials = nil, nil
	s.mu.Unlock()
	require.Equal(t, labelled, get[api.Problems](t, h, "/api/v1/problems").Problems)
	require.Equal(t, before, get[api.Collections](t, h, "/api/v1/collections").Collections[1])
}

// From a label to a proxy that does not take what it means, and back to its author.
func TestWholeQuarantine(t *testing.T) {
	p := newPlane(t, twoCollections(), "r1")
	h := handler(p.api, "")
	picture := shop()
	p.loop.Update(watcher.Update{Picture: picture, Changes: watcher.Changes{All: true}, Full: true, At: time.Now()})
	p.connect(t, envoylike.New(envoylike.Options{Node: "prod/task1", Examine: func(_ translate.Kind, r *discovery.Resource) string {
		if bytes.Contains(r.GetResource().GetValue(), []byte("/nobody-takes-this")) {
			return "no such path"
		}
		return ""
	}}))
	eventually(t, "the proxy has everything", func() bool {
		ps := get[api.Proxies](t, h, "/api/v1/proxies").Proxies
		return len(ps) == 1 && ps[0].Current && len(ps[0].Kinds) == 5
	})
	good := get[api.Collection](t, h, "/api/v1/collections/prod").Generation

	next := *picture
	next.Services = maps.Clone(picture.Services)
	changed := *picture.Services["id-shop_api"]
	changed.Version, changed.Labels = 2, maps.Clone(changed.Labels)
	changed.Labels["com.docker.lb.context_root"] = "/nobody-takes-this"
	next.Services["id-shop_api"] = &changed
	p.loop.Update(watcher.Update{Picture: &next, Changes: watcher.Changes{Services: map[string]struct{}{"id-shop_api": {}}}, At: time.Now()})
	var told []api.Problem
	eventually(t, "its author is told", func() bool {
		told = get[api.Problems](t, h, "/api/v1/problems?service=shop_api&severity=error").Problems
		return len(told) > 0 && get[api.Collection](t, h, "/api/v1/collections/prod").Generation == good
	})
	require.Contains(t, told[0].Reason, "a proxy rejected the newest version of shop.example.com in route table http")
	require.Contains(t, told[0].Reason, "no such path")
	require.Equal(t, []string{"shop.example.com"}, get[api.Collection](t, h, "/api/v1/collections/prod").Quarantine[0].Hosts)

	p.loop.Update(watcher.Update{Picture: picture, Changes: watcher.Changes{Services: map[string]struct{}{"id-shop_api": {}}}, At: time.Now()})
	eventually(t, "other labels end it", func() bool {
		return len(get[api.Problems](t, h, "/api/v1/problems?service=shop_api&severity=error").Problems) == 0
	})
}
