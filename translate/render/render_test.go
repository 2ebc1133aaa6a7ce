package render

import (
	"encoding/json"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	basicauthv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/basic_auth/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waggle-lb/waggle/translate"
)

func TestSensitiveFieldsAreRedactedAtAnyDepth(t *testing.T) {
	const hidden = "do-not-show"
	secret := &tlsv3.Secret{Name: "cert", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "public"}},
		PrivateKey:       &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: hidden}},
	}}}
	users, err := anypb.New(&basicauthv3.BasicAuthPerRoute{Users: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: hidden}}})
	require.NoError(t, err)
	wrapped, err := anypb.New(&routev3.FilterConfig{Config: users})
	require.NoError(t, err)
	table := &routev3.RouteConfiguration{Name: "http", VirtualHosts: []*routev3.VirtualHost{{
		Name: "a", Domains: []string{"a.example.com"}, TypedPerFilterConfig: map[string]*anypb.Any{"basic_auth": wrapped},
	}}}
	var res translate.Resources
	res[translate.Secret] = map[string]*translate.Resource{"cert": {Kind: translate.Secret, Name: "cert", Message: secret}}
	res[translate.Routes] = map[string]*translate.Resource{"http": {Kind: translate.Routes, Name: "http", Message: table}}

	tree, err := Tree(res, Shown...)
	require.NoError(t, err)
	shown, err := json.Marshal(tree)
	require.NoError(t, err)
	require.NotContains(t, string(shown), hidden)
	require.Contains(t, string(shown), Redacted)
	require.Contains(t, string(shown), "public")
	require.Contains(t, string(shown), "a.example.com")
	require.ElementsMatch(t, []string{"listeners", "routes", "clusters", "endpoints", "secrets"}, keys(tree), "extensions only where there are any")
	require.Equal(t, hidden, secret.GetTlsCertificate().GetPrivateKey().GetInlineString(), "what is served stays as it is")
}

func TestKindNamed(t *testing.T) {
	k, ok := KindNamed("clusters")
	require.True(t, ok)
	require.Equal(t, translate.Cluster, k)
	_, ok = KindNamed("cluster")
	require.False(t, ok)
}

func keys[V any](m map[string]V) (names []string) {
	for k := range m {
		names = append(names, k)
	}
	return names
}

// Marks tell contents apart, and give nothing of them away.
func TestMarked(t *testing.T) {
	shown := func(key, content string) string {
		res := translate.Resources{}
		m := &tlsv3.Secret{Name: "s", Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{
			Secret: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: []byte(content)}},
		}}}
		res[translate.Secret] = map[string]*translate.Resource{"s": {Kind: translate.Secret, Name: "s", Message: m}}
		tree, err := Marked([]byte(key), res, translate.Secret)
		require.NoError(t, err)
		return tree["secrets"]["s"].(map[string]any)["generic_secret"].(map[string]any)["secret"].(map[string]any)["inline_string"].(string)
	}
	one := shown("key", "hunter2")
	require.Regexp(t, `^\[redacted\] [0-9a-f]{16}$`, one)
	require.Equal(t, one, shown("key", "hunter2"))
	require.NotEqual(t, one, shown("key", "hunter3"))
	require.NotEqual(t, one, shown("another key", "hunter2"))
}
