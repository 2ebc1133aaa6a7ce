package xds

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
)

func TestRedact(t *testing.T) {
	const key = "-----BEGIN PRIVATE KEY-----"
	for _, c := range []struct {
		kind          translate.Kind
		message, want string
	}{
		{translate.Cluster, "Error adding/updating cluster(s) bad2: Didn't find a registered implementation for 'x' with type URL: 'foo.Bar'",
			"Error adding/updating cluster(s) bad2: Didn't find a registered implementation for 'x' with type URL: 'foo.Bar'"},
		{translate.Cluster, "goo.gle/debugstr    \nname: \"bad\"\n" + key + "\n: Proto constraint validation failed (ClusterValidationError.ConnectTimeout: value must be greater than 0s)",
			"Proto constraint validation failed (ClusterValidationError.ConnectTimeout: value must be greater than 0s)"},
		{translate.Cluster, "Unable to unpack as envoy.config.cluster.v3.Cluster: goo.gle/debugproto  \n" + key,
			"Unable to unpack as envoy.config.cluster.v3.Cluster (the rest is withheld: it may contain key material)"},
		{translate.Listener, "type URL a embedded in an individual Any does not match the message-wide type URL b in DeltaDiscoveryResponse goo.gle/debugstr " + key, "withheld"},
		{translate.Secret, "Failed to load private key from <inline>", "withheld"},
		{translate.Secret, key, "withheld"},
		{translate.Routes, "strange " + key, "withheld"},
		{translate.Routes, "Duplicated credential key: '" + key[len(key)-8:] + "'", "withheld"}, // an API key, by api_key_auth
		{translate.Routes, "a\x1b[31m\nb\xff", "a [31m b\uFFFD"},
		{translate.Routes, strings.Repeat("x", 5000), strings.Repeat("x", 1000) + "…"},
		{translate.Routes, "", ""},
	} {
		got := redact(c.kind, c.message)
		require.NotContains(t, got, "PRIVATE KEY")
		if c.want == "withheld" {
			require.Contains(t, got, "the proxy's reason is withheld")
			continue
		}
		require.Equal(t, c.want, got)
	}
}

// TestNothingSecretIsLoggedOrShown is invariant 6 as far as this package can break it.
func TestNothingSecretIsLoggedOrShown(t *testing.T) {
	var log syncBuffer
	r := start(t, Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, "dev")
	w := shop("dev", 1).put(secret("cert", "TOPSECRET"), listener("https", 10443, "http", "cert"))
	r.publish(t, w)
	c := envoylike.New(envoylike.Options{Node: "dev/1", Reject: func(kind translate.Kind, _, _ string) string {
		if kind == translate.Secret {
			return "goo.gle/debugstr name: \"cert\" private_key { inline_string: \"TOPSECRET\" }: Proto constraint validation failed (X: TOPSECRET)"
		}
		return ""
	}})
	connect(t, c, r.addr)
	require.Eventually(t, func() bool {
		ps := r.Proxies()
		return len(ps) == 1 && ps[0].kind(translate.Secret).NACK != nil
	}, patience, time.Millisecond)
	nack := r.Proxies()[0].kind(translate.Secret).NACK
	require.Equal(t, []string{"cert"}, nack.Resources)
	require.NotContains(t, nack.Message, "TOPSECRET")
	require.Contains(t, log.String(), "proxy rejected resources")
	require.Contains(t, log.String(), "cert")
	require.NotContains(t, log.String(), "TOPSECRET")
	text, err := gather(r.Server)
	require.NoError(t, err)
	require.NotContains(t, text, "TOPSECRET")
	require.Contains(t, text, "waggle_xds_nacks_total")
}

// TestRejectionsComeToAnEnd: with the random application of what is around a bad resource,
// everything good arrives and every bad version is tried a bounded number of times.
func TestRejectionsComeToAnEnd(t *testing.T) {
	r := start(t, Options{Gate: 50 * time.Millisecond}, "dev")
	w := shop("dev", 64)
	r.publish(t, w)
	bad := map[string]bool{}
	var mu sync.Mutex
	reject := func(kind translate.Kind, name, version string) string {
		mu.Lock()
		defer mu.Unlock()
		if bad[version] {
			return "no " + name
		}
		return ""
	}
	r.easygoing(t, "dev")
	c := envoylike.New(envoylike.Options{Node: "dev", Reject: reject, AnyEndpoints: true})
	connect(t, c, r.addr)
	r.reaches(t, c, "dev")
	r.settles(t, 2)
	before := c.Counts()

	mark := func(r *translate.Resource) *translate.Resource {
		e, err := encode(r.Kind, r.Name, r)
		require.NoError(t, err)
		mu.Lock()
		bad[e.version] = true
		mu.Unlock()
		return r
	}
	for i := range 64 {
		name := "svc00" + string(rune('0'+i/10)) + string(rune('0'+i%10))
		w.put(edsCluster(name, 9*time.Second), endpoints(name, uint32(40000+i)))
		if i == 13 || i == 14 || i == 50 {
			w.put(mark(edsCluster(name, 8*time.Second)), mark(endpoints(name, 1)))
		}
	}
	r.publish(t, w)
	served := r.Snapshot("dev")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, c.Wait(ctx, func() bool {
		state := c.State()
		for _, kind := range []translate.Kind{translate.Cluster, translate.Endpoints} {
			good := 0
			for name, version := range served[kind] {
				if state[kind][name] == version {
					good++
				}
			}
			if good != 61 {
				return false
			}
		}
		return true
	}), "%v\n%s", c.Matches(served), r.stuck("dev"))
	want := []string{"svc0013", "svc0014", "svc0050"}
	require.Eventually(t, func() bool {
		p := r.Proxies()[0]
		return len(p.kind(translate.Cluster).Rejected) == 3 && len(p.kind(translate.Endpoints).Rejected) == 3
	}, patience, time.Millisecond)
	require.Equal(t, want, r.Proxies()[0].kind(translate.Cluster).Rejected)
	require.Equal(t, want, r.Proxies()[0].kind(translate.Endpoints).Rejected)
	require.LessOrEqual(t, c.Counts().NACKs, 2*3*8)
	rejections := c.Counts().NACKs

	// They are let be, and a better version heals them.
	r.publish(t, w.put(endpoints("svc0001", 5)))
	require.NoError(t, c.Wait(ctx, func() bool {
		return c.State()[translate.Endpoints]["svc0001"] == r.Snapshot("dev")[translate.Endpoints]["svc0001"]
	}))
	require.Equal(t, rejections, c.Counts().NACKs)
	for _, name := range want {
		w.put(edsCluster(name, 7*time.Second), endpoints(name, 7))
	}
	r.publish(t, w)
	r.reaches(t, c, "dev")
	r.settles(t, 2)
	require.Equal(t, rejections, c.Counts().NACKs)
	require.Less(t, c.Counts().Messages-before.Messages, 250)
}

// TestAPanicCostsOneStream: neither the process nor the fleet.
func TestAPanicCostsOneStream(t *testing.T) {
	var log syncBuffer
	r := start(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, "dev")
	w := shop("dev", 1)
	r.publish(t, w)
	unlucky, other := openRaw(t, r.addr, "dev/unlucky"), openRaw(t, r.addr, "dev/other")
	for _, c := range []*raw{unlucky, other} {
		c.ask(translate.Cluster)
		c.ack(c.nextOf(translate.Cluster, "svc0000"))
		c.ask(translate.Endpoints, "svc0000")
		c.ack(c.nextOf(translate.Endpoints, "svc0000"))
		c.expectNothing()
	}
	k := r.collection("dev")
	k.mu.Lock()
	for st := range k.streams {
		if st.proxy.instance == "unlucky" {
			st.subs[translate.Endpoints].watch = broken{}
		}
	}
	k.mu.Unlock()
	r.publish(t, w.put(endpoints("svc0000", 5)))
	other.ack(other.nextOf(translate.Endpoints, "svc0000"))
	requireStatus(t, unlucky.end(), "Internal", "failed on this stream")
	require.Contains(t, log.String(), "this is a bug in Waggle")
	require.Eventually(t, func() bool { return len(r.Proxies()) == 1 }, patience, time.Millisecond)
}

type broken struct{ cache.Subscription }

func (broken) SubscribedResources() map[string]struct{} { panic("broken") }

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
