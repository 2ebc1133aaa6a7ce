package lastgood

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/cases"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/xds"
	"github.com/waggle-lb/waggle/xds/envoylike"
	"github.com/waggle-lb/waggle/xds/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience   = 20 * time.Second
	collection = "default"
	hash       = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="
	apiKey     = "7d1b36f0c2"
	client     = "0b1f6f25c1"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// swarm is a picture with each way in which a secret gets into resources, and with a
// service that needs none.
type swarm struct {
	picture *watcher.Picture
	key     string // of the certificate, PEM
}

func newSwarm(t *testing.T) *swarm {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"tls.test"}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	s := &swarm{key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	s.picture = &watcher.Picture{
		Static: true, Services: map[string]*watcher.Service{},
		Configs: map[string]*watcher.Config{
			"users":  {ID: "users", Name: "users", Data: []byte("alice:" + hash + "\n")},
			"keys":   {ID: "keys", Name: "keys", Data: []byte("partner:" + apiKey + "\n")},
			"client": {ID: "client", Name: "client", Data: []byte(client)},
			"pair":   {ID: "pair", Name: "pair", Data: []byte(cert + s.key)},
		},
	}
	s.serve("open", "hosts", "open.test")
	s.serve("users", "hosts", "users.test", "basic_auth", "users")
	s.serve("keys", "hosts", "keys.test", "api_keys", "keys")
	s.serve("login", "hosts", "login.test", "oidc_issuer", cases.Issuer, "oidc_client_id", "shop", "oidc_client_secret", "client")
	s.serve("tls", "hosts", "tls.test", "ssl_cert", "pair")
	return s
}

// serve adds a service, or replaces it.
func (s *swarm) serve(name string, labels ...string) {
	one := &watcher.Service{ID: name, Name: name, Version: 1, Replicas: 1, Mode: watcher.Replicated, Labels: map[string]string{"lb.port": "80"}}
	for i := 0; i+1 < len(labels); i += 2 {
		one.Labels["lb."+labels[i]] = labels[i+1]
	}
	s.picture.Services[name] = one
}

// whole is everything, as a control plane that has just started publishes it.
func (s *swarm) whole() translate.Delta {
	b := translate.Build(translate.Input{Picture: s.picture, Config: config.ForCollections(nil), Material: (*secrets.Material)(nil).With(cases.Answers())})
	d := translate.Delta{Collection: collection}
	for kind, named := range b.Resources(collection) {
		for name, r := range named {
			d.Changes = append(d.Changes, translate.Change{Kind: translate.Kind(kind), Name: name, Resource: r})
		}
	}
	return d
}

// resources are those of a delta, encoded.
func resources(t *testing.T, d translate.Delta) []*translate.Resource {
	t.Helper()
	var all []*translate.Resource
	for _, c := range d.Changes {
		r := *c.Resource
		if r.Body == nil {
			var err error
			r.Body, err = proto.MarshalOptions{Deterministic: true}.Marshal(r.Message)
			require.NoError(t, err)
		}
		all = append(all, &r)
	}
	return all
}

// hidden is what must not be anywhere.
func (s *swarm) hidden() []string {
	block, _ := pem.Decode([]byte(s.key))
	plain := []string{hash, apiKey, client, s.key, "PRIVATE KEY", string(block.Bytes)}
	var all []string
	for _, p := range plain {
		all = append(all, p, base64.StdEncoding.EncodeToString([]byte(p)))
	}
	return all
}

// plane is a control plane's server and its keeper.
type plane struct {
	*xds.Server
	addr   string
	keeper *Keeper
	stop   func()
}

func start(t *testing.T, dir string) *plane {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &plane{Server: xds.New(xds.Options{Guard: identity.Insecure()}), addr: lis.Addr().String()}
	p.SetCollections([]string{collection})
	p.keeper = New(Options{Dir: dir, Server: p.Server, Now: func() time.Time { return epoch }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, lis) }()
	ended := false
	p.stop = func() {
		if !ended {
			ended = true
			cancel()
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(p.stop)
	return p
}

// connect runs a client until the returned function ends it.
func connect(t *testing.T, c *envoylike.Client, addr string) (disconnect func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx, addr) }()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func wait(t *testing.T, c *envoylike.Client, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, c.Wait(ctx, f), "%s: %s; faults %v", what, c.Waiting(), c.Faults())
}

// has waits until the client has exactly what is published, and the server knows.
func (p *plane) has(t *testing.T, c *envoylike.Client) {
	t.Helper()
	wait(t, c, "the client has what is published", func() bool { return c.Active() && c.Matches(p.Snapshot(collection)) == nil })
	require.Eventually(t, func() bool {
		for _, x := range p.Proxies() {
			if x.NodeID == c.Node() {
				return x.Current
			}
		}
		return false
	}, patience, time.Millisecond)
}

// accepted makes a directory with what a proxy has accepted of a swarm, and gives that proxy.
func accepted(t *testing.T, s *swarm) (dir string, c *envoylike.Client) {
	t.Helper()
	dir = t.TempDir()
	p := start(t, dir)
	require.NoError(t, p.Publish(s.whole()))
	p.keeper.Save()
	require.False(t, Store{dir}.Any(), "nobody has accepted anything")
	c = envoylike.New(envoylike.Options{Node: collection + "/1", AnyEndpoints: true})
	disconnect := connect(t, c, p.addr)
	p.has(t, c)
	disconnect() // at shutdown the proxies go first
	p.stop()
	p.keeper.Save()
	require.True(t, Store{dir}.Any())
	return dir, c
}

// inline is a data source.
func inline(s string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
}
