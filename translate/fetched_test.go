package translate

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// While a courier fetches what a label names now, the label means what it did before;
// so it does where that fails, and the service is told. Nobody else gets anything of it.
func TestANewNameTakesEffectWhenItIsThere(t *testing.T) {
	w := newWorld()
	asks := func(name string, more ...string) *watcher.Service {
		l := map[string]string{"hosts": name + ".test", "port": "80", "basic_auth": "new"}
		for _, route := range more {
			l[route+".hosts"], l[route+".port"], l[route+".basic_auth"] = route+"."+name+".test", "80", "new"
		}
		return w.service(name, l)
	}
	web := asks("web", "api")
	asks("other")
	w.Secrets = map[string]*watcher.Secret{"new": {ID: "1", Name: "new"}, "old": {ID: "2", Name: "old"}}
	of := func(user string) secrets.Bytes { return secrets.Hide([]byte(user)) }
	with := func(f secrets.Fetched) Input {
		m := (*secrets.Material)(nil).WithFetched(map[string]secrets.Fetched{"dev": f})
		return Input{Picture: w.Picture, Config: testConfig(), Material: m}
	}
	before := map[string]secrets.Item{web.ID + "//basic_auth": {Kind: secrets.Secret, Name: "old", Data: of(alice)}}
	b := NewBuilder()
	cfg := testConfig()
	for _, step := range []struct {
		what string
		f    secrets.Fetched
		open []string
		told labels.Severity
	}{
		{"coming, and nothing was there before", secrets.Fetched{Coming: map[string]bool{"new": true}}, nil, labels.Error},
		{"coming", secrets.Fetched{Coming: map[string]bool{"new": true}, Before: before}, []string{"web.test"}, labels.Info},
		{"failed", secrets.Fetched{Failed: map[string]string{"new": "why"}, Before: before}, []string{"web.test"}, labels.Warning},
		{"there", secrets.Fetched{Content: map[string]secrets.Bytes{"new": of(bob)}}, []string{"web.test", "api.web.test", "other.test"}, ""},
		{"coming again", secrets.Fetched{Coming: map[string]bool{"new": true}, Before: before}, []string{"web.test"}, labels.Info},
		{"neither coming nor there", secrets.Fetched{Before: before}, nil, labels.Error},
	} {
		t.Run(step.what, func(t *testing.T) {
			in := with(step.f)
			in.Config = cfg
			b.Build(in, watcher.Changes{Shared: true})
			var open []string
			var told labels.Severity
			for _, s := range b.services {
				for _, r := range s.routes {
					if !r.closed {
						open = append(open, r.label.Hosts[0])
					}
				}
			}
			for _, p := range b.Problems() {
				if p.Service == "web" && p.Label == "com.docker.lb.basic_auth" {
					told = p.Severity
				}
			}
			require.ElementsMatch(t, step.open, open)
			require.Equal(t, step.told, told)
			fresh := Build(in)
			require.Equal(t, fresh.Problems(), b.Problems(), "the way there leaves no trace")
			require.Equal(t, fresh.Wanted(), b.Wanted())
		})
	}
	require.Contains(t, b.Wanted(), secrets.Want{Collection: "dev", Name: "new", Use: web.ID + "/api/basic_auth"})
}

// A certificate and its key are asked for together, whatever there is of them.
func TestAKeyIsWantedBesideItsCertificate(t *testing.T) {
	w := newWorld()
	w.service("web", map[string]string{"hosts": "a.test", "port": "80", "ssl_cert": "crt", "ssl_key": "key"})
	var names []string
	for _, want := range Build(Input{Picture: w.Picture, Config: testConfig()}).Wanted() {
		names = append(names, want.Name)
	}
	require.Equal(t, []string{"crt", "key"}, names)
}

// What couriers deliver to is the control plane's own, as its other ports are.
func TestTheCouriersPortIsOurs(t *testing.T) {
	cfg := testConfig()
	require.NotContains(t, controlPorts(cfg), uint32(18001))
	cfg.Swarm.Courier = &config.Courier{Listen: ":18001"}
	require.Contains(t, controlPorts(cfg), uint32(18001))
	require.Contains(t, controlPorts(cfg), uint32(18000))
}
