package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	statefulv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	cookiev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/cookie/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/type/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// sticky pins a client to a task by a cookie that holds the task's address. Other
// tasks may come and go; when its own has gone, is ejected or fails its checks,
// the client gets another one, and a new cookie.
var sticky = &httpFilter{
	name:  "envoy.filters.http.stateful_session",
	chain: func() proto.Message { return &statefulv3.StatefulSession{} },
	on: func(r *route) (validator, error) {
		s := r.label.StickySessions
		if s.Cookie == "" {
			return nil, nil
		}
		state := &cookiev3.CookieBasedSessionState{Cookie: &httpv3.Cookie{Name: s.Cookie, Path: r.label.ContextRoot}}
		if s.TTL > 0 {
			state.Cookie.Ttl = durationpb.New(s.TTL)
		}
		if _, err := checked(state); err != nil {
			return nil, errorAt("sticky_sessions", "the name of a cookie", "Envoy would refuse it: %s", err)
		}
		return &statefulv3.StatefulSessionPerRoute{Override: &statefulv3.StatefulSessionPerRoute_StatefulSession{
			StatefulSession: &statefulv3.StatefulSession{SessionState: &corev3.TypedExtensionConfig{
				Name:        "envoy.http.stateful_session.cookie", // looked up by this name
				TypedConfig: mustAny(state),
			}},
		}}, nil
	},
}
