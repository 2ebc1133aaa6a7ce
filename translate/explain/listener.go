package explain

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/translate"
)

// routeTable finds a route configuration, nil if there is none of that name.
func routeTable(res translate.Resources, name string) (*routev3.RouteConfiguration, error) {
	r := res[translate.Routes][name]
	if r == nil {
		return nil, nil
	}
	if t, ok := r.Message.(*routev3.RouteConfiguration); ok {
		return t, nil
	}
	t := &routev3.RouteConfiguration{} // put together from encoded parts
	if err := proto.Unmarshal(r.Body, t); err != nil {
		return nil, fmt.Errorf("read route table %q: %w", name, err)
	}
	return t, nil
}

// normalise brings host and path into the form in which the connection manager
// matches them. It is false where the proxy answers by itself instead.
func (a *Answer) normalise(q *request, w *way) bool {
	q.host = stripHost(q.host, w)
	path, verdict := normalisePath(q.path, w.manager)
	if path != q.path && verdict != refused {
		a.because(fmt.Sprintf("the path is matched as %s", path))
	}
	q.path = path
	a.Request.Host, a.Request.Path = q.host, q.path
	switch verdict {
	case refused:
		a.reject(400, "", "this is not a path that the proxy accepts")
		return false
	case redirected:
		a.Action, a.Status, a.Location = Redirect, 307, path
		a.because("the path holds an escaped slash: the client is sent to the plain one")
		return false
	}
	return true
}

// stripHost drops what the connection manager drops of the Host header before
// anything else sees it. What the route table ignores is no part of it.
func stripHost(host string, w *way) string {
	if i := portStart(host); i >= 0 {
		port, _ := strconv.ParseUint(host[i+1:], 10, 32)
		if w.manager.GetStripAnyHostPort() || w.manager.GetStripMatchingHostPort() && uint32(port) == w.port {
			host = host[:i]
		}
	}
	if w.manager.GetStripTrailingHostDot() {
		if i := portStart(host); i >= 0 {
			host = strings.TrimSuffix(host[:i], ".") + host[i:]
		} else {
			host = strings.TrimSuffix(host, ".")
		}
	}
	return host
}

// headers makes the request's headers what the routes see: what the proxy does not
// believe or pass on is dropped, what it says itself is there.
func (w *way) headers(q *request) {
	underscores := w.manager.GetCommonHttpProtocolOptions().GetHeadersWithUnderscoresAction() == corev3.HttpProtocolOptions_DROP_HEADER
	for name := range q.header {
		l := strings.ToLower(name)
		if underscores && strings.Contains(l, "_") || strings.HasPrefix(l, "x-envoy-") || l == "connection" {
			delete(q.header, name)
		}
	}
	if w.manager.GetUseRemoteAddress().GetValue() {
		q.header.Set("X-Forwarded-For", strings.Join(append(q.header.Values("X-Forwarded-For"), "the client's address"), ","))
	}
	q.header.Set("X-Request-Id", "made by the proxy")
}

// localReason is the x-waggle-reason of an answer that Envoy makes by itself for
// a response flag ("NR", "UH"), "" if it has none.
func (w *way) localReason(flag string) string {
	for _, m := range w.manager.GetLocalReplyConfig().GetMappers() {
		if flagged(m.GetFilter(), flag) {
			return reasonOf(m.GetHeadersToAdd())
		}
	}
	return ""
}

func flagged(f *accesslogv3.AccessLogFilter, flag string) bool {
	return slices.Contains(f.GetResponseFlagFilter().GetFlags(), flag)
}

// reasonOf is the x-waggle-reason among headers to add.
func reasonOf(headers []*corev3.HeaderValueOption) string {
	for _, h := range headers {
		if strings.EqualFold(h.GetHeader().GetKey(), translate.ReasonHeader) {
			return strings.ReplaceAll(h.GetHeader().GetValue(), "%%", "%")
		}
	}
	return ""
}
