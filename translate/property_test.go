package translate

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// swarm is a random Swarm that changes step by step, never an old picture.
type swarm struct {
	rnd     *rand.Rand
	picture *watcher.Picture
	cfg     *config.Config
	// material is what dev has in its directories, and secrets that were given to it.
	material *secrets.Material
	n        int
}

func (s *swarm) input() Input { return Input{Picture: s.picture, Config: s.cfg, Material: s.material} }

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func newSwarm(seed uint64) *swarm {
	s := &swarm{rnd: rand.New(rand.NewPCG(seed, 7)), picture: newWorld().Picture, cfg: testConfig()}
	s.objects()
	for range 4 + s.rnd.IntN(8) {
		s.addService()
	}
	s.config()
	return s
}

// next makes a new picture to write to.
func (s *swarm) next() {
	p := *s.picture
	p.Services, p.Tasks, p.Nodes, p.Networks = maps.Clone(p.Services), maps.Clone(p.Tasks), maps.Clone(p.Nodes), maps.Clone(p.Networks)
	s.picture = &p
}

func (s *swarm) config() {
	r, cfg := s.rnd, testConfig()
	dev := cfg.Collections["dev"]
	dev.ShareHosts = pick(r, "owner", "owner", "any")
	dev.Networks = pick(r, []string{"dev-edge"}, nil, []string{"nowhere", "back", "dev-edge"})
	dev.HostOwners = pick(r, nil, nil, map[string][]string{"*.x.test": {"red"}, "b.test": {"blue", "red"}})
	dev.AccessLabels = pick(r, nil, []string{"/dev", "/Shared/dev"})
	cfg.Collections["prod"].AccessLabels = pick(r, nil, []string{"/prod", "/dev/prod"})
	cfg.Collections["prod"].MatchConstraints = []string{"node.labels.collection == prod"}
	cfg.Collections["prod"].Networks = pick(r, nil, []string{"prod-edge"})
	dev.Default = r.IntN(4) > 0
	dev.AccessLog = r.IntN(4) == 0
	dev.Tracing.OTLP = pick(r, "", "", "collector:4317", "https://127.0.0.1")
	dev.HTTP3 = r.IntN(4) == 0
	dev.Certificates.Default = pick(r, "", "", "pair-a", "gone")
	if r.IntN(4) == 0 {
		cfg.Collections["test"] = &config.Collection{Name: "test", Bind: "0.0.0.0", HTTPPort: 8080}
	}
	dev.Defaults = pick(r, nil, map[string]string{"retries": "1"})
	s.cfg = cfg
}

func (s *swarm) route(prefix string, into map[string]string) {
	r := s.rnd
	into[prefix+"hosts"] = pick(r, "a.test", "b.test", "a.test,b.test", "*.x.test", "y.x.test", "*", "A.test.", "bad host", "*.*")
	into[prefix+"port"] = pick(r, "80", "80", "81", "", "0", "http")
	into[prefix+"context_root"] = pick(r, "", "", "/", "/app", "/app/", "/app/deep", "/b", "//", "/%2e", "app", "/a b", "/ü")
	into[prefix+"context_root_rewrite"] = pick(r, "", "", "true", "maybe")
	into[prefix+"weight"] = pick(r, "", "", "", "0", "10", "-1", "1000000")
	into[prefix+"default_backend"] = pick(r, "", "", "", "", "true")
	into[prefix+"max_fails"] = pick(r, "", "", "0", "3")
	into[prefix+"connect_timeout"] = pick(r, "", "", "1s", "2")
	into[prefix+"timeout"] = pick(r, "", "", "30s", "x")
	s.guards(prefix, into)
	s.shaping(prefix, into)
	seldom := func(from ...string) string { // of class M: most routes should live
		if r.IntN(5) > 0 {
			return ""
		}
		return pick(r, from...)
	}
	into[prefix+"protocol"] = seldom("grpc", "h2c", "auto", "http2", "smtp")
	into[prefix+"lb_policy"] = pick(r, "", "", "", "maglev", "round_robin", "random", "best")
	into[prefix+"prefer_local"] = pick(r, "", "", "", "true", "near")
	into[prefix+"hash_on"] = pick(r, "", "", "", "ip", "header:X-A", "cookie:c", "query:q", "moon")
	into[prefix+"sticky_session_cookie"] = pick(r, "", "", "", "", "app", "a b")
	into[prefix+"sticky_sessions"] = pick(r, "", "", "", "", "pin", "pin,1h", "pin,never")
	into[prefix+"ip_hash"] = pick(r, "", "", "", "", "true")
	other := func() string {
		return pick(r, "", "", fmt.Sprintf("svc-%03d", 1+r.IntN(12)), fmt.Sprintf("svc-%03d", 1+r.IntN(4)), "svc-same", "nobody")
	}
	into[prefix+"mirror"] = other()
	if into[prefix+"mirror"] != "" {
		into[prefix+"mirror"] += pick(r, "", ",10%", ",0", ",101")
	}
	into[prefix+"failover"] = other()
	into[prefix+"send_proxy_protocol"] = seldom("v1", "v2", "v3")
	into[prefix+"rewrite_path"] = seldom("/", "/new", "/new/", `/\1`)
	into[prefix+"rewrite_regex"] = seldom(`^/(a+)/,/\1`, "(,x", `a,\9`)
	into[prefix+"rewrite_host"] = seldom("auto", "in.test", "a b")
	into[prefix+"retry_on"] = pick(r, "", "", "", "reset", "connect-failure,5xx", "unavailable", "always")
	into[prefix+"retry_methods"] = pick(r, "", "", "", "none", "GET,PUT", "get")
	into[prefix+"per_try_timeout"] = pick(r, "", "", "", "2s", "-1")
	into[prefix+"health_path"] = pick(r, "", "", "", "/up", "up?x")
	into[prefix+"health_interval"] = pick(r, "", "", "", "1s", "0")
	into[prefix+"max_requests"] = pick(r, "", "", "", "7", "0")
	into[prefix+"slow_start"] = pick(r, "", "", "", "30s", "x")
	s.traffic(prefix, into)
	s.secured(prefix, into)
}

// secured is what a route says about TLS, good and bad.
func (s *swarm) secured(prefix string, into map[string]string) {
	r := s.rnd
	into[prefix+"ssl_cert"] = pick(r, "", "", "pair-a", "pair-x", "pair-all", "ca", "gone")
	into[prefix+"ssl_key"] = pick(r, "", "", "", "", "pair-a", "pair-x", "gone")
	into[prefix+"ssl_passthrough"] = pick(r, "", "", "", "", "", "true", "false")
	into[prefix+"tls_min_version"] = pick(r, "", "", "", "", "1.2", "1.3", "1.1")
	into[prefix+"client_ca"] = pick(r, "", "", "", "", "", "ca", "pair-a", "gone")
	into[prefix+"hsts"] = pick(r, "", "", "", "1h", "0")
	into[prefix+"ssl_backend"] = pick(r, "", "", "", "", "true")
	into[prefix+"ssl_backend_tls_verify"] = pick(r, "", "", "", "", "", "none", "system", "ca", "gone")
	into[prefix+"ssl_backend_sni"] = pick(r, "", "", "", "", "", "in.test")
}

// traffic of a route and what it answers by itself, good and bad.
func (s *swarm) traffic(prefix string, into map[string]string) {
	r := s.rnd
	seldom := func(from ...string) string {
		if r.IntN(5) > 0 {
			return ""
		}
		return pick(r, from...)
	}
	into[prefix+"path"] = seldom("/exact", "/exact,/b", "/x?y", "/%2f")
	into[prefix+"path_regex"] = seldom("/v[0-9]+/.*", "/app", `/\pL+`, "(", "/(a|b)*c", `/\x{10FFFF}`, "(?i)/b")
	into[prefix+"methods"] = seldom("GET", "POST,GET", "PURGE", "A|B", "get", "GET,HEAD,OPTIONS")
	into[prefix+"match_header.X-A"] = seldom("1", "!1", "*", "!*", "~[0-9]+", "!~x", "~(", "ü")
	into[prefix+"match_header.:path"] = seldom("1")
	into[prefix+"match_query.q"] = seldom("1", "*", "!*", "~a+", "!1", "!")
	into[prefix+"priority"] = seldom("1", "-1", "2147483647", "high")
	into[prefix+"redirects"] = seldom("a.test,https://b.test", "*.x.test,http://b.test:81/base/;b.test,https://ü.test", "a.test,b", "a.test,https://b.test?x")
	into[prefix+"redirect"] = seldom("https://b.test", "https://b.test/x%20y?z=%25", "https://[::1]:81/", "b.test")
	into[prefix+"redirect_code"] = seldom("301", "308", "404")
	into[prefix+"ssl_only"] = seldom("true", "false", "yep")
	into[prefix+"respond"] = seldom("204", "503,100 % \"closed\"", "99", "200,{}", "204,x", "301")
}

// guards of a route, good and bad.
func (s *swarm) guards(prefix string, into map[string]string) {
	r := s.rnd
	into[prefix+"allow_ips"] = pick(r, "", "", "", "10.0.0.0/8, ::1", "1.2.3.4", "::/0", "10.0.0.0/33")
	into[prefix+"deny_ips"] = pick(r, "", "", "", "192.0.2.0/24", "me")
	into[prefix+"rate_limit"] = pick(r, "", "", "", "1/s", "600/m,burst=3", "4294967295/s", "1/h")
	into[prefix+"rate_limit_by"] = pick(r, "", "", "", "ip", "header:X-Tenant", "header::path", "moon")
	into[prefix+"max_body_size"] = pick(r, "", "", "", "0", "10m", "9223372036854775807", "-1")
	into[prefix+"ext_auth"] = pick(r, "", "", "", "", "svc-001/x", "grpc://svc-002:81", "nobody", "svc-003:80", "a b")
	into[prefix+"ext_auth_headers"] = pick(r, "", "", "", "", "X-User,Cookie", "host")
	into[prefix+"basic_auth"] = pick(r, "", "", "", "", "users", "keys", "gone")
	into[prefix+"api_keys"] = pick(r, "", "", "", "", "keys", "users", "a b")
	into[prefix+"jwt_issuer"] = pick(r, "", "", "", "", "https://id.test", "me")
	into[prefix+"jwt_jwks"] = into[prefix+"jwt_issuer"] // mostly both or none
	if r.IntN(2) == 0 {
		into[prefix+"jwt_jwks"] = pick(r, "", "", "https://id.test/keys", "http://id.test:81/keys", "http://127.0.0.1/keys", "http://[fe80::1]/", "https://192.0.2.1/k?x=y", "keys", "keys")
	}
	into[prefix+"cors_origins"] = pick(r, "", "", "", "*", "https://a.test, http://*.a.test:81", "a.test")
	into[prefix+"cors_methods"] = pick(r, "", "", "", "GET,PUT", "*", "get")
	into[prefix+"cors_credentials"] = pick(r, "", "", "", "true", "no")
}

// shaping of a route, good and bad.
func (s *swarm) shaping(prefix string, into map[string]string) {
	r := s.rnd
	into[prefix+"set_request_header."+pick(r, "X-A", "x-b", "Host", "Content-Length", "X-Real-Ip")] = pick(r, "", "", "", "100%", `%REQ(:path)% "x" {y} ü`, " ", "a\tb", "a\x1bb")
	into[prefix+"add_request_header.X-A"] = pick(r, "", "", "", "b", strings.Repeat("%", 8192), strings.Repeat("%", 8193))
	into[prefix+"remove_request_headers"] = pick(r, "", "", "", "Cookie, x-a,X-A", ":path", "x-envoy-retry-on")
	into[prefix+"set_response_header."+pick(r, "Retry-After", "X-Waggle-Reason", "Transfer-Encoding", "bad name")] = pick(r, "", "", "", "60", "%")
	into[prefix+"add_response_header.Set-Cookie"] = pick(r, "", "", "", "a=b; Path=/")
	into[prefix+"remove_response_headers"] = pick(r, "", "", "", "Server", "a b", ",")
	into[prefix+"compression"] = pick(r, "", "", "", "gzip", "br,zstd,gzip,br", "deflate")
	into[prefix+"websocket"] = pick(r, "", "", "", "false", "true", "off")
	into[prefix+"access_log"] = pick(r, "", "", "", "true", "false", "maybe")
	into[prefix+"trace_sampling"] = pick(r, "", "", "", "10%", "0", "0.001", "101")
	into[prefix+"fault_delay"] = pick(r, "", "", "", "2s,10%", "1ms,0", "8760h,100", "0,10%", "2s")
	into[prefix+"fault_abort"] = pick(r, "", "", "", "503,5%", "200,0.0001", "600,1", "99,1")
}

// tame drops what no careful author writes: else hardly a route of so many keys lives.
func tame(keys map[string]string) {
	for k, v := range keys {
		_, key, named := strings.Cut(k, ".")
		if !named {
			key = k
		}
		alone := map[string]string{"lb.hosts": "a.test", "lb.port": "80", "lb." + key: v}
		read := labels.Parse(labels.Merge([]string{"lb"}, "x", alone), "x", labels.Options{})
		if v != "" && (len(read.Routes) == 0 || read.Routes[0].Broken || read.Routes[0].Closed) {
			keys[k] = ""
		}
		if key == "port" && keys[k] == "" {
			keys[k] = "80"
		}
	}
}

func (s *swarm) labels() map[string]string {
	r := s.rnd
	keys := map[string]string{}
	s.route("", keys)
	for _, name := range []string{"api", "web-2"} {
		if r.IntN(4) == 0 {
			s.route(name+".", keys)
		}
	}
	keys["service_cluster"] = pick(r, "", "", "", "dev", "prod", "test", "nowhere")
	keys["network"] = pick(r, "", "", "", "dev-edge", "back", "gone", "bridge", "ingress")
	keys["backend_mode"] = pick(r, "", "", "", "task", "vip", "host", "magic")
	if r.IntN(3) > 0 {
		tame(keys)
	}
	out := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(keys)) { // each draw must be of the same key in every run
		if v := keys[k]; v != "" {
			out[pick(r, "com.docker.lb.", "com.docker.lb.", "lb.")+k] = v
		}
	}
	if v := pick(r, "", "red", "blue", "green"); v != "" {
		out[watcher.StackLabel] = v
	}
	if v := pick(r, "", "", "", "/dev", "/Shared/dev/team", "/prod", "/other"); v != "" {
		out[labels.AccessLabel] = v
	}
	if r.IntN(8) == 0 {
		out[FleetLabel] = pick(r, "dev", "prod", "nowhere")
	}
	return out
}

func (s *swarm) spec(id string, version uint64) *watcher.Service {
	r := s.rnd
	w := &watcher.Service{
		ID: id, Name: "svc-" + id, Version: version, CreatedAt: epoch, Labels: s.labels(),
		Mode: pick(r, watcher.Replicated, watcher.Replicated, watcher.Replicated, watcher.Global, watcher.ReplicatedJob), Replicas: uint64(r.IntN(5)),
		EndpointMode: pick(r, "vip", "dnsrr"),
		Constraints:  pick(r, nil, nil, []string{"node.labels.collection==prod"}, []string{"node.role==worker"}),
	}
	if r.IntN(10) == 0 {
		w.Name = "svc-same"
	}
	if r.IntN(6) == 0 { // only there to be referred to
		w.Labels = map[string]string{}
	}
	for _, n := range []string{"id-dev-edge", "id-prod-edge", "id-back"} {
		if r.IntN(2) == 0 {
			w.Networks = append(w.Networks, n)
			w.VIPs = append(w.VIPs, watcher.VIP{Network: n, Addr: netip.MustParseAddr("10.9.9.9")})
		}
	}
	if r.IntN(3) == 0 {
		w.Ports = append(w.Ports, watcher.Port{Protocol: "tcp", Target: 80, Published: 8080, HostMode: r.IntN(2) == 0})
	}
	return w
}

func (s *swarm) addService() string {
	s.n++
	id := fmt.Sprintf("%03d", s.n)
	s.picture.Services[id] = s.spec(id, 1)
	s.setTasks(id)
	return id
}

func (s *swarm) setTasks(id string) {
	r, spec := s.rnd, s.picture.Services[id]
	var tasks []*watcher.Task
	for slot := range r.IntN(4) {
		t := &watcher.Task{
			ID: fmt.Sprintf("%s-%d", id, r.IntN(1000)), ServiceID: id, NodeID: pick(r, "n1", "n2", "gone"), Slot: slot + 1,
			State: pick(r, watcher.Running, watcher.Running, watcher.Starting), Desired: pick(r, watcher.Running, watcher.Running, watcher.Shutdown),
		}
		for i, n := range spec.Networks {
			t.Addresses = append(t.Addresses, watcher.Address{Network: n, Addr: netip.AddrFrom4([4]byte{10, byte(i), byte(s.n), byte(r.IntN(200) + 1)})})
		}
		switch r.IntN(6) {
		case 0:
			t.Ports = []watcher.HostPort{{Protocol: "tcp", Target: 80, Published: 30000 + uint32(r.IntN(9))}}
		case 1:
			t.Addresses = append(t.Addresses, watcher.Address{Network: "id-back", Addr: netip.MustParseAddr("127.0.0.1")})
		}
		tasks = append(tasks, t)
	}
	if len(tasks) == 0 {
		delete(s.picture.Tasks, id)
	} else {
		s.picture.Tasks[id] = tasks
	}
}

// objects are the configs that guards name: good, bad and gone.
func (s *swarm) objects() {
	s.picture.Configs = map[string]*watcher.Config{}
	for _, name := range []string{"users", "keys", "red_keys"} {
		data := pick(s.rnd, "", "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n", "k1\n", `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}`)
		if data != "" {
			s.picture.Configs[name] = &watcher.Config{ID: name, Name: name, Data: []byte(data)}
		}
	}
	s.material = secrets.Of(map[string][]secrets.Item{"dev": pick(s.rnd, nil,
		[]secrets.Item{{Kind: secrets.File, Name: "wild.pem", Data: secrets.Hide([]byte(both("*.test")))}},
		[]secrets.Item{
			{Kind: secrets.File, Name: "wild.pem", Data: secrets.Hide([]byte(both("*.test", "*.x.test")))},
			{Kind: secrets.File, Name: "b.pem", Data: secrets.Hide([]byte(both("b.test")))},
			{Kind: secrets.Secret, Name: "pair-all", Data: secrets.Hide([]byte(renewal("a.test")))},
		},
		[]secrets.Item{{Kind: secrets.File, Name: "wild.pem", Data: secrets.Hide([]byte(renewal("*.test")))}},
	)})
	for _, c := range []struct{ name, good, other string }{
		{"pair-a", both("a.test"), both("a.test", "b.test")}, {"pair-x", both("*.x.test", "b.test"), both("y.x.test")},
		{"pair-all", both("a.test", "b.test", "*.x.test", "*.test"), "no PEM"}, {"ca", both("CA"), both("CA", "2")},
	} {
		if data := pick(s.rnd, c.good, c.good, c.good, c.other, ""); data != "" {
			s.picture.Configs[c.name] = &watcher.Config{ID: c.name, Name: c.name, Data: []byte(data)}
		}
	}
}

// step changes the Swarm and says what changed.
func (s *swarm) step() watcher.Changes {
	s.next()
	r := s.rnd
	if len(s.picture.Services) == 0 {
		id := s.addService()
		return watcher.Changes{Services: map[string]struct{}{id: {}}, Tasks: map[string]struct{}{id: {}}}
	}
	one := func() string {
		ids := slices.Sorted(maps.Keys(s.picture.Services))
		return ids[r.IntN(len(ids))]
	}
	set := func(id string) map[string]struct{} { return map[string]struct{}{id: {}} }
	switch r.IntN(13) {
	case 12:
		s.objects()
		return watcher.Changes{Shared: true}
	case 0:
		id := s.addService()
		return watcher.Changes{Services: set(id), Tasks: set(id)}
	case 1:
		id := one()
		delete(s.picture.Services, id)
		delete(s.picture.Tasks, id)
		return watcher.Changes{Services: set(id), Tasks: set(id)}
	case 2, 3, 4:
		id := one()
		s.picture.Services[id] = s.spec(id, s.picture.Services[id].Version+1)
		return watcher.Changes{Services: set(id)}
	case 5:
		s.picture.Nodes["n2"] = &watcher.Node{ID: "n2", Hostname: pick(r, "beta", ""), Down: r.IntN(2) == 0, Addr: pick(r, netip.Addr{}, netip.MustParseAddr("192.168.0.2"))}
		return watcher.Changes{Nodes: true}
	case 6:
		if _, ok := s.picture.Networks["id-back"]; ok {
			delete(s.picture.Networks, "id-back")
		} else {
			s.picture.Networks["id-back"] = &watcher.Network{ID: "id-back", Name: "back", Ingress: r.IntN(5) == 0}
		}
		return watcher.Changes{Shared: true}
	case 7:
		if r.IntN(3) == 0 {
			s.config()
		}
		return watcher.Changes{}
	default:
		id := one()
		s.setTasks(id)
		return watcher.Changes{Tasks: set(id)}
	}
}

// everything is what a Builder says, comparable.
func everything(b *Builder, cfg *config.Config) map[string]any {
	out := map[string]any{"problems": slices.Clone(b.Problems()), "services": b.Services()}
	for name := range cfg.Collections {
		for k, m := range b.Resources(name) {
			for n, r := range m {
				out[fmt.Sprintf("%s %s %s", name, Kind(k), n)] = string(r.Body)
			}
		}
	}
	return out
}

func TestIncrementalIsTheSameAsFromNothing(t *testing.T) {
	for seed := range uint64(150) {
		s := newSwarm(seed)
		b := NewBuilder()
		proxies := map[string]Resources{}
		apply := func(ds []Delta) {
			for _, d := range ds {
				require.True(t, slices.IsSortedFunc(d.Changes, func(x, y Change) int {
					if x.Kind != y.Kind {
						return int(x.Kind) - int(y.Kind)
					}
					return slices.Compare([]byte(x.Name), []byte(y.Name))
				}))
				res := proxies[d.Collection]
				for _, c := range d.Changes {
					if res[c.Kind] == nil {
						res[c.Kind] = map[string]*Resource{}
					}
					if c.Resource == nil {
						require.Contains(t, res[c.Kind], c.Name, "seed %d: gone, but never there", seed)
						delete(res[c.Kind], c.Name)
						continue
					}
					if old := res[c.Kind][c.Name]; old != nil {
						require.NotEqual(t, string(old.Body), string(c.Resource.Body), "seed %d: %s %s did not change", seed, c.Kind, c.Name)
					}
					res[c.Kind][c.Name] = c.Resource
				}
				proxies[d.Collection] = res
			}
		}
		apply(b.Build(s.input(), watcher.Changes{All: true}))
		for step := range 20 {
			var changes watcher.Changes
			for range 1 + s.rnd.IntN(3) {
				changes.Merge(s.step())
			}
			apply(b.Build(s.input(), changes))
			fresh := Build(s.input())
			if diff := cmp.Diff(everything(fresh, s.cfg), everything(b, s.cfg)); diff != "" {
				t.Fatalf("seed %d, step %d: incremental differs (-from nothing +incremental)\n%s", seed, step, diff)
			}
			for name := range s.cfg.Collections {
				for k, m := range b.Resources(name) {
					require.Len(t, proxies[name][k], len(m), "seed %d step %d: what was sent of %s %s", seed, step, name, Kind(k))
					for n, r := range m {
						require.Equal(t, string(r.Body), string(proxies[name][k][n].Body))
					}
				}
			}
			for name := range proxies {
				if s.cfg.Collections[name] == nil {
					delete(proxies, name)
				}
			}
			if step%5 == 0 {
				requireClosed(t, b, s.cfg)
			}
		}
	}
}

// One picture, told service by service in any order, is one result.
func TestOrderOfEventsLeavesNoTrace(t *testing.T) {
	for seed := range uint64(40) {
		s := newSwarm(1000 + seed)
		want := everything(Build(s.input()), s.cfg)
		for range 4 {
			ids := slices.Sorted(maps.Keys(s.picture.Services))
			s.rnd.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			b := NewBuilder()
			p := *s.picture
			p.Services, p.Tasks = map[string]*watcher.Service{}, map[string][]*watcher.Task{}
			b.Build(Input{Picture: &p, Config: s.cfg, Material: s.material}, watcher.Changes{All: true})
			for _, id := range ids {
				q := p
				q.Services, q.Tasks = maps.Clone(p.Services), maps.Clone(p.Tasks)
				q.Services[id] = s.picture.Services[id]
				if ts := s.picture.Tasks[id]; ts != nil {
					q.Tasks[id] = ts
				}
				p = q
				b.Build(Input{Picture: &q, Config: s.cfg, Material: s.material}, watcher.Changes{Services: map[string]struct{}{id: {}}, Tasks: map[string]struct{}{id: {}}})
			}
			if diff := cmp.Diff(want, everything(b, s.cfg)); diff != "" {
				t.Fatalf("seed %d, order %v\n%s", seed, ids, diff)
			}
		}
	}
}

// Whatever a new service says, the others keep their clusters and endpoints, and
// every route of a host that belongs to somebody: it can add a path to such a
// host, take a share where its own stack has one, and nothing else.
func TestNewcomerCostsOthersNothing(t *testing.T) {
	for seed := range uint64(300) {
		s := newSwarm(5000 + seed)
		for _, c := range s.cfg.Collections {
			c.ShareHosts = "owner"
		}
		before := Build(s.input())
		s.next()
		id := s.addService()
		spec := s.picture.Services[id]
		spec.Labels[watcher.StackLabel] = "stranger"
		delete(spec.Labels, FleetLabel)
		spec.CreatedAt = epoch.Add(1e15)
		if len(before.names[spec.Name]) == 0 {
			spec.Name = "stranger" // whoever refers to a service by name may change with it
		}
		after := Build(s.input())
		for name := range s.cfg.Collections {
			old, now := before.Resources(name), after.Resources(name)
			oldHosts, nowHosts := tableOf(old), tableOf(now)
			for _, k := range []Kind{Cluster, Endpoints, Listener} {
				for n, r := range old[k] {
					require.NotNil(t, now[k][n], "seed %d: %s %s is gone", seed, k, n)
					if k == Listener && n != httpListener {
						chains := chainsFor(now[k][n], oldHosts)
						for name, chain := range chainsFor(r, oldHosts) {
							require.Empty(t, cmp.Diff(chain, chains[name], protocmp.Transform()), "seed %d: chain %s of %s", seed, name, n)
						}
						continue
					}
					require.Equal(t, string(r.Body), string(now[k][n].Body), "seed %d: %s %s", seed, k, n)
				}
			}
			for h, vh := range oldHosts {
				if h == "*" && len(before.collections[name].hosts["*"].claimsOrNone()) == 0 {
					continue // nobody's: the newcomer may take it
				}
				require.NotNil(t, nowHosts[h], "seed %d: host %s is gone", seed, h)
				left := nowHosts[h].Routes
				for _, r := range vh.Routes {
					if r.GetDirectResponse() != nil && vagueOf(before, r.Name) {
						continue // a last resort: it holds nothing against others
					}
					i := slices.IndexFunc(left, func(x *routev3.Route) bool { return cmp.Equal(mustEncode(x), mustEncode(r)) })
					require.GreaterOrEqual(t, i, 0, "seed %d: host %s lost or changed %s", seed, h, r.Name)
					for _, added := range left[:i] {
						require.Contains(t, added.Name, spec.Name, "seed %d: host %s", seed, h)
						require.NotEqual(t, "/", added.Match.GetPrefix())
					}
					left = left[i+1:]
				}
			}
		}
	}
}

// chainsFor are the filter chains of a listener as the servers of some hosts see them,
// by name: a host that is new may take its name from a certificate that covers it, and
// bring chains of its own.
func chainsFor(r *Resource, hosts map[string]*routev3.VirtualHost) map[string]*listenerv3.FilterChain {
	out := map[string]*listenerv3.FilterChain{}
	for _, c := range r.Message.(*listenerv3.Listener).FilterChains {
		c = proto.CloneOf(c)
		if m := c.FilterChainMatch; m != nil && len(m.ServerNames) > 0 {
			m.ServerNames = slices.DeleteFunc(m.ServerNames, func(name string) bool { return hosts[name] == nil })
			if len(m.ServerNames) == 0 {
				continue
			}
		}
		out[c.Name] = c
	}
	return out
}

func vagueOf(b *Builder, route string) bool {
	for _, s := range b.services {
		for _, r := range s.routes {
			if r.name == route {
				return r.vague
			}
		}
	}
	return false
}

func (h *host) claimsOrNone() []*claim {
	if h == nil {
		return nil
	}
	return h.claims
}

func tableOf(r Resources) map[string]*routev3.VirtualHost {
	out := map[string]*routev3.VirtualHost{}
	for _, vh := range r[Routes][httpTable].Message.(*routev3.RouteConfiguration).VirtualHosts {
		out[vh.Name] = vh
	}
	return out
}
