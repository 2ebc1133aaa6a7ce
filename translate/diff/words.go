package diff

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// does is what a route does, in words.
func (r *route) does() string { return does(r.main()) }

func does(m map[string]any) string {
	switch {
	case m["redirect"] != nil:
		return "redirects to " + target(dict(m, "redirect"))
	case m["direct_response"] != nil:
		status := text(m, "direct_response", "status")
		if reason := reasonOf(m); reason != "" {
			return "answers " + status + " (" + reason + ")"
		}
		return "answers " + status
	case m["route"] != nil:
		return "forwards to " + destination(dict(m, "route"))
	}
	return "does something that diff does not read"
}

// reasonOf says why the proxy itself answers; "" for an answer that labels ask for.
func reasonOf(m map[string]any) string {
	if m["direct_response"] == nil {
		return ""
	}
	for _, h := range list(m, "response_headers_to_add") {
		if text(h, "header", "key") == "x-waggle-reason" {
			return text(h, "header", "value")
		}
	}
	return ""
}

func destination(action map[string]any) string {
	if c := text(action, "cluster"); c != "" {
		return c
	}
	var parts []string
	for _, c := range list(action, "weighted_clusters", "clusters") {
		parts = append(parts, text(c, "name")+" ("+text(c, "weight")+")")
	}
	return strings.Join(parts, ", ")
}

var redirectCodes = map[string]string{"": "301", "MOVED_PERMANENTLY": "301", "FOUND": "302", "SEE_OTHER": "303", "TEMPORARY_REDIRECT": "307", "PERMANENT_REDIRECT": "308"}

func target(r map[string]any) string {
	scheme := text(r, "scheme_redirect")
	if text(r, "https_redirect") == "true" {
		scheme = "https"
	}
	to := ""
	if scheme != "" {
		to = scheme + "://"
	}
	to += text(r, "host_redirect")
	if p := text(r, "port_redirect"); p != "" {
		to += ":" + p
	}
	to += text(r, "path_redirect") + text(r, "prefix_rewrite")
	return to + " with " + redirectCodes[text(r, "response_code")]
}

// leaf is one value of a resource and where it is.
type leaf struct{ path, value string }

// leaves flattens plain JSON values.
func leaves(v any) []leaf {
	var out []leaf
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch x := v.(type) {
		case map[string]any:
			switch prefix := text(x, "address_prefix"); {
			case len(x) == 0 && path != "":
				out = append(out, leaf{path, "on"})
			case strings.HasPrefix(prefix, "::ffff:"): // the same addresses, as IPv6 sockets see them
				return
			case prefix != "":
				out = append(out, leaf{path, prefix + "/" + cmp.Or(text(x, "prefix_len"), "0")})
				return
			}
			for _, k := range slices.Sorted(maps.Keys(x)) {
				walk(strings.TrimPrefix(path+"."+k, "."), x[k])
			}
		case []any:
			seen := map[string]bool{}
			for i, e := range x {
				name := nameOf(e)
				if name == "" || seen[name] {
					name = fmt.Sprint(i)
				}
				seen[name] = true
				walk(path+"["+name+"]", e)
			}
		case json.Number:
			out = append(out, leaf{path, x.String()})
		case nil:
		default:
			out = append(out, leaf{path, fmt.Sprint(x)})
		}
	}
	walk("", v)
	return out
}

// nameOf is what tells an element of a list from the others wherever it stands, "" if nothing does.
func nameOf(e any) string {
	if entries := list(e, "entries"); len(entries) > 0 { // of rate limits
		var values []string
		for _, x := range entries {
			values = append(values, text(x, "value"))
		}
		return strings.Trim(strings.Join(values, " "), " ")
	}
	return strings.NewReplacer("[", "(", "]", ")").Replace(text(e, "name"))
}

// maxFields bounds how much is said of one resource.
const maxFields = 20

// differences lists the values in which two resources differ, by path.
func differences(a, b any) []Field {
	was, is := map[string]string{}, map[string]string{}
	for _, l := range leaves(a) {
		was[l.path] = l.value
	}
	for _, l := range leaves(b) {
		is[l.path] = l.value
	}
	paths := maps.Clone(was)
	maps.Copy(paths, is)
	var out []Field
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		if was[p] != is[p] {
			out = append(out, unmarked(Field{p, was[p], is[p]}))
		}
	}
	return out
}

// redacted stands where content is not shown; a mark may follow, by which contents are
// told apart (render.Marked).
const redacted = "[redacted]"

// unmarked is a field without marks.
func unmarked(f Field) Field {
	if strings.HasPrefix(f.Old, redacted) && strings.HasPrefix(f.New, redacted) {
		return Field{f.Field, redacted, "other content"}
	}
	for _, v := range []*string{&f.Old, &f.New} {
		if strings.HasPrefix(*v, redacted) {
			*v = redacted
		}
	}
	return f
}

// word gives what stands under a path the name that labels have for it. Several
// fields with one name that is whole are told as one.
type word struct {
	path  string // where it stands, itself and below
	name  string
	whole bool // the values say nothing to a reader: it differs, or is not there
}

var routeWords = []word{
	{path: "match.headers", name: "methods or match_header"},
	{path: "match.query_parameters", name: "match_query"},
	{path: "match", name: "path"},
	{path: "route.timeout", name: "timeout"},
	{path: "route.idle_timeout", name: "idle_timeout"},
	{path: "route.retry_policy.num_retries", name: "retries"},
	{path: "route.retry_policy.retry_on", name: "retry_on"},
	{path: "route.retry_policy.per_try_timeout", name: "per_try_timeout"},
	{path: "route.hash_policy", name: "hash_on or sticky_session_cookie"},
	{path: "route.request_mirror_policies", name: "mirror"},
	{path: "route.prefix_rewrite", name: "path that the task sees"},
	{path: "route.regex_rewrite", name: "path that the task sees"},
	{path: "route.host_rewrite_literal", name: "host that the task sees"},
	{path: "request_headers_to_add", name: "request headers"},
	{path: "request_headers_to_remove", name: "request headers"},
	{path: "response_headers_to_add", name: "response headers"},
	{path: "response_headers_to_remove", name: "response headers"},
}

var clusterWords = []word{
	{path: "connect_timeout", name: "connect_timeout"},
	{path: "lb_policy", name: "lb_policy"},
	{path: "outlier_detection", name: "max_fails and fail_timeout"},
	{path: "circuit_breakers", name: "limits"},
	{path: "health_checks", name: "health checks"},
	{path: "transport_socket", name: "TLS to the tasks", whole: true},
	{path: "typed_extension_protocol_options", name: "protocol", whole: true},
	{path: "per_connection_buffer_limit_bytes", name: "buffer"},
}

// filterWords are the labels that switch filters on, where the filter is called otherwise.
var filterWords = map[string]string{
	"addresses": "allow_ips or deny_ips", "body_size": "max_body_size", "cors": "cors_origins", "jwt": "jwt_issuer", "oidc": "oidc_issuer",
	"envoy.filters.http.stateful_session": "sticky_sessions",
}

func filterWord(name string) string { return cmp.Or(filterWords[name], name) }

// sharedWords shorten what is the same in every path.
var sharedWords = []word{
	{path: "address.socket_address", name: "address"},
	{path: "filter_chains", name: "filter chains"},
}

// named gives fields the names of words, and bounds them.
func named(fields []Field, words []word) []Field {
	out := []Field{}
	for _, f := range fields {
		f.Field = strings.TrimPrefix(f.Field, "typed_config.")
		for _, w := range words {
			if rest, under := strings.CutPrefix(f.Field, w.path); under && (rest == "" || rest[0] == '.' || rest[0] == '[') {
				f.Field = w.name
				if w.whole {
					f.Old, f.New = "as before", "changed"
				} else if last := rest[strings.LastIndexByte(rest, '.')+1:]; strings.Contains(rest, ".") && w.path != "match" {
					f.Field += " (" + last + ")"
				}
				break
			}
		}
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	if more := len(out) - maxFields; more > 0 {
		out = append(out[:maxFields], Field{Field: fmt.Sprintf("%d more", more)})
	}
	return out
}

// changes are the fields in which a route differs.
func changes(a, b *route) []Field {
	var out []Field
	add := func(f Field) {
		if f.Old != f.New && !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	x, y := a.main(), b.main()
	add(Field{"action", does(x), does(y)})
	for _, name := range both(filters(x), filters(y)) {
		was, is := filters(x)[name], filters(y)[name]
		switch {
		case was == nil:
			add(Field{filterWord(string(name)), "", "on"})
		case is == nil:
			add(Field{filterWord(string(name)), "on", ""})
		case len(differences(was, is)) > 0:
			for _, f := range differences(was, is) {
				add(Field{filterWord(string(name)) + " (" + f.Field[strings.LastIndexByte(f.Field, '.')+1:] + ")", f.Old, f.New})
			}
		}
	}
	for _, part := range slices.Sorted(maps.Keys(a.parts)) {
		if b.parts[part] == nil || kind(a.parts[part]) != kind(b.parts[part]) {
			continue // what there is to say, action says
		}
		for _, f := range named(differences(plain(a.parts[part]), plain(b.parts[part])), routeWords) {
			add(f)
		}
	}
	if was, is := parts(a), parts(b); was != is && len(out) == 0 {
		add(Field{"parts", was, is})
	}
	if more := len(out) - maxFields; more > 0 {
		out = append(out[:maxFields], Field{Field: fmt.Sprintf("%d more", more)})
	}
	return out
}

// kind is what sort of thing a route does.
func kind(m map[string]any) string {
	for _, k := range []string{"route", "redirect", "direct_response"} {
		if m[k] != nil {
			return k
		}
	}
	return ""
}

// parts are what a route is made of beside itself.
func parts(r *route) string { return strings.Join(slices.Sorted(maps.Keys(r.parts)), ", ") }

type filterName string

func (n filterName) key() string { return string(n) }

// filters are those that a route switches on.
func filters(m map[string]any) map[filterName]any {
	out := map[filterName]any{}
	for name, v := range dict(m, "typed_per_filter_config") {
		out[filterName(name)] = v
	}
	return out
}

// plain is a route without what is told in words of its own.
func plain(m map[string]any) map[string]any {
	out := maps.Clone(m)
	for _, k := range []string{"name", "redirect", "direct_response", "typed_per_filter_config", "metadata"} {
		delete(out, k)
	}
	if m["direct_response"] != nil {
		delete(out, "response_headers_to_add")
	}
	if action := maps.Clone(dict(m, "route")); action != nil {
		delete(action, "cluster")
		delete(action, "weighted_clusters")
		out["route"] = action
	}
	if m["route"] == nil {
		delete(out, "request_headers_to_add")
	}
	return out
}
