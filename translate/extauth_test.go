package translate

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/require"
	statusv3 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// grpcAuth lets in who says please, as user alice.
type grpcAuth struct {
	authv3.UnimplementedAuthorizationServer
}

func (grpcAuth) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	h := r.GetAttributes().GetRequest().GetHttp().GetHeaders()
	if h["x-user"] != "" || h["x-magic"] != "please" {
		return &authv3.CheckResponse{Status: &statusv3.Status{Code: int32(codes.PermissionDenied)}, HttpResponse: &authv3.CheckResponse_DeniedResponse{
			DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden}, Body: "say please"},
		}}, nil
	}
	set := func(k, v string) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: k, Value: v}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}
	}
	return &authv3.CheckResponse{Status: &statusv3.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{
		OkResponse: &authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{set("x-user", "alice"), set("x-other", "not named")}},
	}}, nil
}

// Who is asked sees the request, and sets the headers that the labels name: no
// others, and no client sets those.
func TestExternalAuthorizationSetsHeaders(t *testing.T) {
	w := newWorld()
	w.Loopback = true
	w.Nodes["n1"].Addr = netip.MustParseAddr("127.0.0.1")
	http1 := w.service("a_auth", nil, stack("a"), scaled(0))
	w.backend(t, http1, 1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-User") != "" || r.Header.Get("X-Magic") != "please" || r.Header.Get("Transfer-Encoding") != "" {
			http.Error(w, "say please", http.StatusForbidden)
			return
		}
		if r.URL.Query().Get("anonymous") == "" {
			w.Header().Set("X-User", "alice")
		}
		w.Header().Set("X-Other", "not named")
	}))
	rpc := w.service("a_rpc", nil, stack("a"), scaled(0))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := grpc.NewServer()
	authv3.RegisterAuthorizationServer(srv, grpcAuth{})
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-ended })
	w.at(rpc, 1, netip.MustParseAddrPort(l.Addr().String()))

	for name, auth := range map[string]string{"http": "auth:80", "grpc": "grpc://rpc:80"} {
		s := w.service("a_"+name, map[string]string{"hosts": name + ".test", "port": "80", "ext_auth": auth, "ext_auth_headers": "X-User, Cookie"}, stack("a"), scaled(0))
		w.backend(t, s, 1, echo(name))
		bare := w.service("a_bare-"+name, map[string]string{"hosts": "bare-" + name + ".test", "port": "80", "ext_auth": auth}, stack("a"), scaled(0))
		w.backend(t, bare, 1, echo(name))
	}
	b := w.build(t, testConfig())
	require.Empty(t, b.Problems())
	p := runEnvoy(t, staticBootstrap(t, b, "dev"))

	for _, name := range []string{"http", "grpc"} {
		t.Run(name, func(t *testing.T) {
			denied := p.do(t, "GET", "http://"+name+".test/", nil, "")
			require.Equal(t, 403, denied.StatusCode, denied.body)
			require.Equal(t, "forbidden", denied.Header.Get(ReasonHeader))
			require.Contains(t, denied.body, "say please", "it may say why")

			passed := p.do(t, "POST", "http://"+name+".test/", http.Header{"X-Magic": {"please"}, "X-User": {"root"}, "Cookie": {"a=b"}}, "body")
			require.Equal(t, 200, passed.StatusCode, passed.body)
			require.Contains(t, passed.body, `"X-User":["alice"]`)
			require.Contains(t, passed.body, `"Cookie":["a=b"]`)
			require.NotContains(t, passed.body, "X-Other")

			bare := p.do(t, "GET", "http://bare-"+name+".test/", http.Header{"X-Magic": {"please"}}, "")
			require.Equal(t, 200, bare.StatusCode, bare.body)
			require.NotContains(t, bare.body, "X-User")
		})
	}
	anonymous := p.do(t, "GET", "http://http.test/?anonymous=1", http.Header{"X-Magic": {"please"}, "X-User": {"root"}}, "")
	require.Equal(t, 200, anonymous.StatusCode, anonymous.body)
	require.NotContains(t, anonymous.body, "root")
}
