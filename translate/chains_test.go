package translate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// chainLines gives the chains of HTTPS of a collection: name and server names.
func chainLines(b *Builder, collection string) []string {
	r := b.Resources(collection)[Listener][httpsListener]
	if r == nil {
		return nil
	}
	var out []string
	for _, c := range r.Message.(*listenerv3.Listener).FilterChains {
		out = append(out, strings.TrimSpace(fmt.Sprintln(c.Name, c.FilterChainMatch.ServerNames)))
	}
	return out
}

// secured is a service with a certificate of a config.
func (w *world) secured(name, hosts, cert string, more ...string) *watcher.Service {
	l := map[string]string{"hosts": hosts, "port": "80", "ssl_cert": cert}
	for i := 0; i+1 < len(more); i += 2 {
		l[more[i]] = more[i+1]
	}
	owner, _, _ := strings.Cut(name, "_")
	return w.service(name, l, stack(owner))
}

// Every server name has one chain, whatever certificates say they are for.
func TestWhoseServerName(t *testing.T) {
	listed := map[string]string{"wild.pem": both("*.dir.test"), "site.pem": both("site.dir.test", "a.test")}
	for name, c := range map[string]struct {
		files map[string]string
		give  func(w *world)
		want  []string
	}{
		"names of the certificate, not of hosts": {nil, func(w *world) {
			w.gives("pair", both("a.test", "*.x.test"))
			w.secured("red_web", "a.test,b.x.test", "pair")
		}, []string{"https/config/pair [*.x.test a.test]"}},
		"a second host under a name is no chain": {nil, func(w *world) {
			w.gives("pair", both("*.x.test"))
			w.secured("red_web", "b.x.test", "pair")
			w.secured("red_api", "c.x.test", "pair")
		}, []string{"https/config/pair [*.x.test]"}},
		"directories come without a label, and before labels": {listed, func(w *world) {
			w.gives("pair", both("*.dir.test", "other.test"))
			w.secured("red_web", "red.dir.test,other.test", "pair")
		}, []string{"https/config/pair [other.test red.dir.test]", "https/file/site.pem [a.test site.dir.test]", "https/file/wild.pem [*.dir.test]"}},
		"the older of two certificates for a name": {nil, func(w *world) {
			w.gives("one", both("*.x.test"))
			w.gives("two", both("*.x.test"))
			w.secured("red_web", "b.x.test", "two")
			w.secured("blue_web", "c.x.test", "one")
		}, []string{"https/config/one [c.x.test]", "https/config/two [*.x.test]"}},
		"a name that is somebody's who has no certificate": {nil, func(w *world) {
			w.gives("pair", both("a.test", "b.test"))
			w.secured("red_web", "a.test", "pair")
			w.service("blue_web", map[string]string{"hosts": "b.test", "port": "80"}, stack("blue"))
		}, []string{"https/config/pair [a.test]"}},
		"a stricter profile is a chain of its own": {nil, func(w *world) {
			w.gives("pair", both("*.x.test"))
			w.gives("staff", both("CA"))
			w.secured("red_web", "a.x.test", "pair")
			w.secured("red_new", "b.x.test", "pair", "tls_min_version", "1.3")
			w.secured("red_staff", "c.x.test", "pair", "client_ca", "staff")
		}, []string{"https-ca-config-staff/config/pair [c.x.test]", "https-tls13/config/pair [b.x.test]", "https/config/pair [*.x.test]"}},
		"passthrough under a wildcard": {nil, func(w *world) {
			w.gives("pair", both("*.x.test"))
			w.secured("red_web", "a.x.test", "pair")
			w.service("red_raw", map[string]string{"hosts": "b.x.test,*.y.test", "port": "443", "ssl_passthrough": "true"}, stack("red"))
		}, []string{"https/config/pair [*.x.test]", "passthrough/*.y.test [*.y.test]", "passthrough/b.x.test [b.x.test]"}},
		"a host without a certificate": {nil, func(w *world) {
			w.secured("red_web", "a.test", "nobody")
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			c.give(w)
			cfg := testConfig()
			b := Build(Input{Picture: w.Picture, Config: cfg, Material: listing(c.files)})
			require.Equal(t, c.want, chainLines(b, "dev"), "%+v", b.Problems())
			requireClosed(t, b, cfg)
		})
	}
}

// A service is added to a host of HTTPS, or goes: no listener changes, and a certificate
// that is renewed changes nothing but its secret.
func TestServicesAndRenewalsLeaveListenersAlone(t *testing.T) {
	w := newWorld()
	w.gives("pair", both("*.x.test"))
	w.secured("red_web", "a.x.test", "pair")
	cfg := testConfig()
	before := *w.Picture
	b := Build(Input{Picture: &before, Config: cfg})

	api := w.secured("red_api", "b.x.test", "pair")
	after := *w.Picture
	changed := map[Kind][]string{}
	for _, d := range b.Build(Input{Picture: &after, Config: cfg}, watcher.Changes{Services: map[string]struct{}{api.ID: {}}, Tasks: map[string]struct{}{api.ID: {}}}) {
		for _, c := range d.Changes {
			changed[c.Kind] = append(changed[c.Kind], c.Name)
		}
	}
	require.Equal(t, map[Kind][]string{Cluster: {"red_api:80"}, Endpoints: {"red_api:80"}, Routes: {"http", "https"}}, changed)

	cert, key := pemOf("*.x.test")
	renewed := after
	renewed.Configs = map[string]*watcher.Config{"pair": {ID: "again", Name: "pair", Data: []byte(key + "\n" + cert + "\n# renewed\n")}}
	require.Empty(t, b.Build(Input{Picture: &renewed, Config: cfg}, watcher.Changes{Shared: true}), "the same certificate, written in another way")
	other := after
	other.Configs = map[string]*watcher.Config{"pair": {ID: "other", Name: "pair", Data: []byte(renewal("*.x.test"))}}
	deltas := b.Build(Input{Picture: &other, Config: cfg}, watcher.Changes{Shared: true})
	require.Len(t, deltas, 1)
	require.Len(t, deltas[0].Changes, 1)
	require.Equal(t, Ref{Secret, "cert/config/pair"}, Ref{deltas[0].Changes[0].Kind, deltas[0].Changes[0].Name})
}

// Whatever a label names, a collection is served its own certificates and nothing else.
func TestNobodyElsesKeys(t *testing.T) {
	w := newWorld()
	for _, name := range []string{"prod.pem", "../prod/prod.pem", "/run/secrets/waggle-key.pem", "waggle-key.pem", "given", "prod_given"} {
		w.secured(fmt.Sprintf("red_s%d", w.n), fmt.Sprintf("h%d.prod.test", w.n), name)
	}
	cfg := testConfig()
	item := func(kind secrets.Kind, name string) secrets.Item {
		return secrets.Item{Kind: kind, Name: name, Data: secrets.Hide([]byte(both("*.prod.test")))}
	}
	m := secrets.Of(map[string][]secrets.Item{"prod": {item(secrets.File, "prod.pem"), item(secrets.Secret, "given"), item(secrets.Secret, "prod_given")}})
	b := Build(Input{Picture: w.Picture, Config: cfg, Material: m})
	require.Empty(t, chainLines(b, "dev"))
	require.Empty(t, b.Resources("dev")[Secret])
	require.NotEmpty(t, chainLines(b, "prod"))
	for _, s := range w.Services {
		requireProblem(t, b, s.Name, labels.Error, "")
		require.Len(t, routeLines(b, "dev", s.Labels["com.docker.lb.hosts"]), 1, "plain HTTP stays")
	}
}

// Without TLS on the channel a Docker secret's key goes nowhere; a file's does, as the
// operator put it there.
func TestInsecureChannelKeepsDockerSecrets(t *testing.T) {
	w := newWorld()
	w.secured("red_web", "a.test", "given")
	w.secured("red_api", "b.test", "file.pem")
	cfg := testConfig()
	m := secrets.Of(map[string][]secrets.Item{"dev": {
		{Kind: secrets.Secret, Name: "given", Data: secrets.Hide([]byte(both("a.test")))},
		{Kind: secrets.File, Name: "file.pem", Data: secrets.Hide([]byte(both("b.test")))},
	}})
	require.Len(t, chainLines(Build(Input{Picture: w.Picture, Config: cfg, Material: m}), "dev"), 2)
	cfg.XDS.Insecure = true
	b := Build(Input{Picture: w.Picture, Config: cfg, Material: m})
	require.Equal(t, []string{"https/file/file.pem [b.test]"}, chainLines(b, "dev"))
	requireProblem(t, b, "red_web", labels.Error, "in the clear")
	require.Equal(t, []string{"cert/file/file.pem"}, names(b, "dev", Secret))
	require.False(t, slices.ContainsFunc(b.Problems(), func(p Problem) bool { return strings.Contains(fmt.Sprint(p), "PRIVATE") }))
}
