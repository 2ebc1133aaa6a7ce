package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/waggle-lb/waggle/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const dev, prod = "spiffe://waggle/collection/dev", "spiffe://waggle/collection/prod"

// from is a context whose peer has shown chains that were verified.
func from(t *testing.T, chains ...[]*x509.Certificate) context.Context {
	t.Helper()
	return peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: chains}}})
}

func TestWhichURIsCount(t *testing.T) {
	a := newAuthority(t, "test")
	for name, tt := range map[string]struct {
		uris []string
		want []string // nil: refused
	}{
		"one":                     {[]string{dev}, []string{"dev"}},
		"two":                     {[]string{prod, dev}, []string{"dev", "prod"}},
		"twice":                   {[]string{dev, dev}, []string{"dev"}},
		"all characters":          {[]string{"spiffe://waggle/collection/a.b_c-1"}, []string{"a.b_c-1"}},
		"beside something else":   {[]string{"spiffe://waggle/node/7", dev, "https://example.com/"}, []string{"dev"}},
		"none":                    {nil, nil},
		"other trust domain":      {[]string{"spiffe://swarm/collection/dev"}, nil},
		"longer trust domain":     {[]string{"spiffe://waggle.example.com/collection/dev"}, nil},
		"port":                    {[]string{"spiffe://waggle:443/collection/dev"}, nil},
		"user":                    {[]string{"spiffe://waggle@evil/collection/dev"}, nil},
		"user before":             {[]string{"spiffe://evil@waggle/collection/dev"}, nil},
		"other scheme":            {[]string{"https://waggle/collection/dev"}, nil},
		"scheme in capitals":      {[]string{"SPIFFE://waggle/collection/dev"}, nil},
		"domain in capitals":      {[]string{"spiffe://WAGGLE/collection/dev"}, nil},
		"path in capitals":        {[]string{"spiffe://waggle/Collection/dev"}, nil},
		"collection in capitals":  {[]string{"spiffe://waggle/collection/Dev"}, nil},
		"trailing slash":          {[]string{dev + "/"}, nil},
		"double slash":            {[]string{"spiffe://waggle//collection/dev"}, nil},
		"double slash before":     {[]string{"spiffe://waggle/collection//dev"}, nil},
		"deeper":                  {[]string{dev + "/1"}, nil},
		"climbing":                {[]string{dev + "/../prod"}, nil},
		"climbing to the top":     {[]string{"spiffe://waggle/x/../collection/dev"}, nil},
		"dot":                     {[]string{"spiffe://waggle/./collection/dev"}, nil},
		"dots as a name":          {[]string{"spiffe://waggle/collection/.."}, nil},
		"percent-encoded letter":  {[]string{"spiffe://waggle/collection/%64ev"}, nil},
		"percent-encoded slash":   {[]string{"spiffe://waggle/collection%2Fdev"}, nil},
		"percent-encoded inside":  {[]string{"spiffe://waggle/collection/dev%2Fprod"}, nil},
		"query":                   {[]string{dev + "?"}, nil},
		"query with a collection": {[]string{dev + "?c=prod"}, nil},
		"fragment":                {[]string{dev + "#prod"}, nil},
		"no name":                 {[]string{"spiffe://waggle/collection/"}, nil},
		"no collection":           {[]string{"spiffe://waggle"}, nil},
		"wildcard":                {[]string{"spiffe://waggle/collection/*"}, nil},
		"two in one":              {[]string{dev + "," + prod}, nil},
		"too long":                {[]string{"spiffe://waggle/collection/" + strings.Repeat("x", 129)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			cert, _ := a.sign(a.client(tt.uris...))
			id, err := FromPeer(from(t, []*x509.Certificate{cert, a.cert}), time.Now())
			if tt.want == nil {
				require.Equal(t, codes.PermissionDenied, status.Code(err))
				require.ErrorContains(t, err, "speaks for no collection: it needs the URI spiffe://waggle/collection/<name>")
				require.Empty(t, id)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, id.Collections)
			require.False(t, id.Insecure)
		})
	}
	t.Run("DNS names and a common name", func(t *testing.T) {
		template := a.client()
		template.DNSNames = []string{"dev", "waggle"}
		cert, _ := a.sign(template)
		_, err := FromPeer(from(t, []*x509.Certificate{cert, a.cert}), time.Now())
		require.Equal(t, codes.PermissionDenied, status.Code(err))
	})
}

// What waggle.yml allows as a name can be proved, and nothing else.
func FuzzNames(f *testing.F) {
	for _, name := range []string{"", "dev", "Dev", "a.b", ".a", "a-", "a/b", "a\n", "é", strings.Repeat("x", 128), strings.Repeat("x", 129)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) { require.Equal(t, config.ValidCollection(name), validName(name)) })
}

// Whatever stands where the names of a certificate are, reading it does not fail.
func FuzzURIs(f *testing.F) {
	value, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: uriTag, Bytes: []byte(dev)}})
	require.NoError(f, err)
	f.Add(value)
	f.Add(value[:len(value)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, value []byte) {
		cert := &x509.Certificate{Extensions: []pkix.Extension{{Id: subjectAltName, Value: value}}}
		for _, uri := range uris(cert) {
			require.Contains(t, string(value), uri)
		}
	})
}

func TestNobodyIsAnybody(t *testing.T) {
	for name, ctx := range map[string]context.Context{
		"no peer":          t.Context(),
		"in clear":         peer.NewContext(t.Context(), &peer.Peer{}),
		"no certificate":   from(t),
		"not verified":     peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}}}),
		"an empty chain":   from(t, nil),
		"other transports": peer.NewContext(t.Context(), &peer.Peer{AuthInfo: other{}}),
	} {
		t.Run(name, func(t *testing.T) {
			id, err := FromPeer(ctx, time.Now())
			require.Equal(t, codes.Unauthenticated, status.Code(err), err)
			require.Empty(t, id)
			_, err = FromContext(ctx)
			require.Equal(t, codes.Internal, status.Code(err))
		})
	}
	require.Error(t, Identity{}.Check(""), "the zero value may nothing")
	require.Error(t, Identity{}.Check("dev"))
}

type other struct{}

func (other) AuthType() string { return "other" }

func TestTheProofEndsWithTheFirstOfItsChain(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	at := func(d time.Duration) *x509.Certificate { return &x509.Certificate{NotAfter: now.Add(d)} }
	a := newAuthority(t, "test")
	template := a.client(dev)
	template.NotAfter = now.Add(3 * time.Hour)
	leaf, _ := a.sign(template)
	for name, tt := range map[string]struct {
		chains [][]*x509.Certificate
		want   time.Duration
	}{
		"leaf":         {[][]*x509.Certificate{{leaf, at(9 * time.Hour)}}, 3 * time.Hour},
		"intermediate": {[][]*x509.Certificate{{leaf, at(time.Hour), at(9 * time.Hour)}}, time.Hour},
		"best of two":  {[][]*x509.Certificate{{leaf, at(time.Hour)}, {leaf, at(2 * time.Hour)}}, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := FromPeer(from(t, tt.chains...), now)
			require.NoError(t, err)
			require.True(t, now.Add(tt.want).Equal(id.NotAfter), id.NotAfter)
			_, err = FromPeer(from(t, tt.chains...), now.Add(tt.want))
			require.Equal(t, codes.Unauthenticated, status.Code(err))
			require.ErrorContains(t, err, "the client certificate for dev ended at "+now.Add(tt.want).UTC().Format(time.RFC3339))
		})
	}
}

func TestCheck(t *testing.T) {
	id := Identity{Collections: []string{"dev", "test.a"}}
	for node, allowed := range map[string]bool{
		"dev": true, "dev/": true, "dev/1": true, "dev/1/2": true, "dev/../prod": true, "test.a/x": true,
		"": false, "/": false, "/dev": false, "prod": false, "prod/dev": false, "de": false, "dev2": false, "Dev": false,
		"dev ": false, " dev": false, "dev\x00": false, "dev%2F1": false, "dev?x": false, "dev,test.a": false, "dev, test.a": false, "test": false, "*": false,
		strings.Repeat("x", 1000): false,
	} {
		err := id.Check(node)
		if allowed {
			require.NoError(t, err, node)
			continue
		}
		require.Equal(t, codes.PermissionDenied, status.Code(err), node)
		require.ErrorContains(t, err, "speaks for dev, test.a, and the node ID", node)
		require.Less(t, len(err.Error()), 500)
	}
	require.NoError(t, Identity{Insecure: true}.Check("prod/1"))
}

func TestUntil(t *testing.T) {
	ctx, cancel := Identity{Collections: []string{"dev"}, NotAfter: time.Now().Add(10 * time.Millisecond)}.Until(t.Context())
	defer cancel()
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	require.Equal(t, codes.Unauthenticated, status.Code(context.Cause(ctx)))

	ctx, cancel = Identity{Insecure: true}.Until(t.Context())
	_, ends := ctx.Deadline()
	require.False(t, ends)
	cancel()
	require.ErrorIs(t, context.Cause(ctx), context.Canceled)
}
