package render

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/cncf/xds/go/udpa/annotations"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	apikeyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/api_key_auth/v3"
	basicauthv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/basic_auth/v3"
	oauth2v3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/oauth2/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waggle-lb/waggle/translate"
)

// hidden must not be shown in any form.
const hidden = "do-not-show-me"

// What can hold a credential, wherever it can stand.
func TestCredentialsAreRedacted(t *testing.T) {
	text := func(s string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
	}
	raw := func(s string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: []byte(s)}}
	}
	keys := []*apikeyv3.Credential{{Client: "shown only with its key", Key: hidden}}
	for name, m := range map[string]proto.Message{
		"basic auth":             &basicauthv3.BasicAuth{Users: text(hidden)},
		"basic auth, bytes":      &basicauthv3.BasicAuth{Users: raw(hidden)},
		"basic auth of a route":  &basicauthv3.BasicAuthPerRoute{Users: text(hidden)},
		"API keys":               &apikeyv3.ApiKeyAuth{Credentials: keys},
		"API keys of a route":    &apikeyv3.ApiKeyAuthPerRoute{Credentials: keys},
		"a certificate":          &tlsv3.Secret{Name: "a", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: text("public"), PrivateKey: raw(hidden), Password: text(hidden), Pkcs12: raw(hidden)}}},
		"a secret of any kind":   &tlsv3.Secret{Name: "a", Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{Secret: text(hidden), Secrets: map[string]*corev3.DataSource{"x": text(hidden)}}}},
		"session ticket keys":    &tlsv3.Secret{Name: "a", Type: &tlsv3.Secret_SessionTicketKeys{SessionTicketKeys: &tlsv3.TlsSessionTicketKeys{Keys: []*corev3.DataSource{raw(hidden)}}}},
		"a context's own":        &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{TlsCertificates: []*tlsv3.TlsCertificate{{PrivateKey: text(hidden)}}}},
		"what OIDC names by SDS": &oauth2v3.OAuth2{Config: &oauth2v3.OAuth2Config{Credentials: &oauth2v3.OAuth2Credentials{ClientId: "shop", TokenSecret: &tlsv3.SdsSecretConfig{Name: "oidc"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			for place, r := range placed(t, m) {
				shown := show(t, r)
				require.NotContains(t, shown, hidden, place)
				require.NotContains(t, shown, base64.StdEncoding.EncodeToString([]byte(hidden)), place)
				require.NotContains(t, shown, base64.StdEncoding.EncodeToString([]byte(Redacted)), "said in words: %s", place)
			}
		})
	}
}

// Every field that Envoy marks sensitive, in every message that is linked into this
// binary: what a later version of the API adds is redacted without anybody thinking of it.
func TestEveryMarkedFieldIsRedacted(t *testing.T) {
	marked := 0
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		for i := range mt.Descriptor().Fields().Len() {
			f := mt.Descriptor().Fields().Get(i)
			if !proto.GetExtension(f.Options(), annotations.E_Sensitive).(bool) {
				continue
			}
			marked++
			m := mt.New()
			fill(m, f, 0)
			wire, err := proto.Marshal(m.Interface())
			require.NoError(t, err)
			require.Contains(t, string(wire), hidden, "the test must put something into %s", f.FullName())
			for place, r := range placed(t, m.Interface()) {
				require.NotContains(t, show(t, r), hidden, "%s: %s", place, f.FullName())
			}
		}
		return true
	})
	require.Greater(t, marked, 10, "the annotation is known")
}

// fill puts hidden text into a field, and into every field of what it holds.
func fill(m protoreflect.Message, f protoreflect.FieldDescriptor, depth int) {
	whole := func(in protoreflect.Message) {
		if depth > 4 {
			return
		}
		if a, ok := in.Interface().(*anypb.Any); ok {
			a.TypeUrl, a.Value = "type.googleapis.com/google.protobuf.StringValue", append([]byte{10, byte(len(hidden))}, hidden...)
			return
		}
		for i := range in.Descriptor().Fields().Len() {
			fill(in, in.Descriptor().Fields().Get(i), depth+1)
		}
	}
	scalar := func(f protoreflect.FieldDescriptor) (protoreflect.Value, bool) {
		switch f.Kind() {
		case protoreflect.StringKind:
			return protoreflect.ValueOfString(hidden), true
		case protoreflect.BytesKind:
			return protoreflect.ValueOfBytes([]byte(hidden)), true
		}
		return protoreflect.Value{}, false
	}
	switch {
	case f.IsMap():
		e := m.Mutable(f).Map().NewValue()
		if f.MapValue().Message() != nil {
			whole(e.Message())
		} else if v, ok := scalar(f.MapValue()); ok {
			e = v
		}
		if f.MapKey().Kind() == protoreflect.StringKind {
			m.Mutable(f).Map().Set(protoreflect.ValueOfString(hidden).MapKey(), e)
		}
	case f.IsList() && f.Message() != nil:
		whole(m.Mutable(f).List().AppendMutable().Message())
	case f.IsList():
		if v, ok := scalar(f); ok {
			m.Mutable(f).List().Append(v)
		}
	case f.Message() != nil:
		whole(m.Mutable(f).Message())
	default:
		if v, ok := scalar(f); ok {
			m.Set(f, v)
		}
	}
}

// placed puts a message wherever a filter's configuration or a secret may stand.
func placed(t *testing.T, m proto.Message) map[string]translate.Resources {
	t.Helper()
	packed := pack(t, m)
	wrapped := pack(t, &routev3.FilterConfig{Config: packed, IsOptional: true})
	twice := pack(t, &routev3.FilterConfig{Config: wrapped})
	of := func(a *anypb.Any) map[string]*anypb.Any { return map[string]*anypb.Any{"guard": a} }
	table := func(vh *routev3.VirtualHost) translate.Resources {
		return resource(translate.Routes, &routev3.RouteConfiguration{Name: "http", VirtualHosts: []*routev3.VirtualHost{vh}})
	}
	hcm := pack(t, &hcmv3.HttpConnectionManager{HttpFilters: []*hcmv3.HttpFilter{{Name: "guard", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed}}}})
	return map[string]translate.Resources{
		"by itself":             resource(translate.Secret, m),
		"of a host":             table(&routev3.VirtualHost{TypedPerFilterConfig: of(packed)}),
		"of a host, wrapped":    table(&routev3.VirtualHost{TypedPerFilterConfig: of(wrapped)}),
		"of a route":            table(&routev3.VirtualHost{Routes: []*routev3.Route{{TypedPerFilterConfig: of(packed)}}}),
		"of a route, wrapped":   table(&routev3.VirtualHost{Routes: []*routev3.Route{{TypedPerFilterConfig: of(wrapped)}}}),
		"of a route, and again": table(&routev3.VirtualHost{Routes: []*routev3.Route{{TypedPerFilterConfig: of(twice)}}}),
		"of a sharer": table(&routev3.VirtualHost{Routes: []*routev3.Route{{Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: &routev3.WeightedCluster{
				Clusters: []*routev3.WeightedCluster_ClusterWeight{{Name: "a", TypedPerFilterConfig: of(wrapped)}},
			}},
		}}}}}),
		"in a listener": resource(translate.Listener, &listenerv3.Listener{FilterChains: []*listenerv3.FilterChain{{
			Filters:         []*listenerv3.Filter{{Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: hcm}}},
			TransportSocket: &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed}},
		}}}),
		"as an extension": resource(translate.Extension, &corev3.TypedExtensionConfig{Name: "guard", TypedConfig: packed}),
	}
}

func resource(k translate.Kind, m proto.Message) translate.Resources {
	var res translate.Resources
	res[k] = map[string]*translate.Resource{"r": {Kind: k, Name: "r", Message: m}}
	return res
}

func pack(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	require.NoError(t, err)
	return a
}

func show(t *testing.T, r translate.Resources) string {
	t.Helper()
	tree, err := Tree(r, Shown...)
	require.NoError(t, err)
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	require.NoError(t, e.Encode(tree))
	return out.String()
}
