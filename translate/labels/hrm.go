package labels

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/config"
)

// HRMRoute is where a route of a Set comes from, if that is a label of UCP 2's HTTP
// routing mesh: com.docker.ucp.mesh.http[.N] = "external_route=http://host,internal_port=80".
type HRMRoute struct {
	Label string
	// Broken: what the label asks for cannot be made out or served. What is known of
	// its claim answers 503.
	Broken bool
}

const (
	// hrmRouteName is the route of the label without a suffix; others are hrm-<suffix>.
	hrmRouteName = "hrm"
	// hrmLongest is what a suffix is cut to: names of routes are names of metrics too.
	hrmLongest = 40
	hrmExample = "external_route=http://app.example.com,internal_port=8080"
)

var hrmKeys = []string{"external_route", "internal_port", "sticky_sessions", "redirect", "include_forwarded_for"}

// isHRM reports whether a label is one of the routing mesh.
func isHRM(label string) bool { return label == HRMPrefix || strings.HasPrefix(label, HRMPrefix+".") }

// readHRM adds a route to the set for each HRM label. Keys under
// com.docker.lb.<that route>. join it, which gives HRM routes what HRM had not.
func readHRM(set *Set, service string, lbls map[string]string) {
	var found []string
	bytes := 0
	for label, text := range lbls {
		if isHRM(label) {
			found = append(found, label)
			bytes += len(label) + len(text)
		}
	}
	if len(found) == 0 {
		return
	}
	slices.Sort(found)
	h := hrm{set: set, service: service, claimed: set.wholeHosts()}
	if len(found) > maxRoutes || bytes > maxBytes {
		set.Broken = true
		h.label, h.text = found[0], lbls[found[0]]
		h.report(Error, h.text, fmt.Sprintf("the service has %d HRM labels of %d bytes, and at most %d of %d bytes are read: all of its routes answer 503", len(found), bytes, maxRoutes, maxBytes), "split the service")
		found = found[:min(len(found), maxRoutes)]
		for bytes = 0; len(found) > 0; found = found[:len(found)-1] { // as many as fit still hold their hosts
			bytes = 0
			for _, label := range found {
				bytes += len(label) + len(lbls[label])
			}
			if bytes <= maxBytes {
				break
			}
		}
	}
	set.HRM = map[string]HRMRoute{}
	for _, label := range found {
		h.label, h.text = strings.ToValidUTF8(label, "\uFFFD"), lbls[label]
		h.read()
	}
}

// hrm is one HRM label on its way.
type hrm struct {
	set         *Set
	service     string
	label, text string
	claimed     map[string]string // host, or "" for every host nobody has -> the label that takes the whole of it
}

func (h *hrm) report(severity Severity, value, reason, hint string) {
	h.set.Problems = append(h.set.Problems, Problem{
		Severity: severity, Service: h.service, Label: h.label, Value: shown(value), Reason: reason, Hint: hint,
	})
}

func (h *hrm) read() {
	if strings.TrimSpace(h.text) == "" {
		return // not set
	}
	said := h.pairs()
	external, has := said["external_route"]
	if !has {
		h.report(Error, h.text, "has no external_route, so it takes no traffic", "write `"+hrmExample+"`")
		return
	}
	keys := map[string]string{}
	host, sni, broken, ok := h.external(external)
	if !ok {
		return
	}
	if first, twice := h.claimed[host]; twice {
		h.report(Warning, external, fmt.Sprintf("`%s` says the same host for this service, and holds", first), "remove one of the two")
		return
	}
	h.claimed[host] = h.label
	if host == "" {
		keys["default_backend"] = "true"
	} else {
		keys["hosts"] = host
	}
	if sni {
		keys["ssl_passthrough"] = "true"
	}
	if port := said["internal_port"]; port != "" {
		keys["port"] = port
	}
	for _, k := range []string{"sticky_sessions", "redirect", "include_forwarded_for"} {
		text := said[k]
		if text == "" {
			continue
		}
		if sni {
			h.report(Warning, text, fmt.Sprintf("%s does nothing for TLS that is passed through (sni://)", k), "remove it")
			continue
		}
		switch k {
		case "sticky_sessions":
			keys["sticky_session_cookie"] = text
		case "redirect":
			broken = !h.redirect(keys, host, text) || broken
		case "include_forwarded_for":
			if b, err := boolean.read(text); err != nil || !b {
				h.report(Info, text, "X-Forwarded-For is always sent", "remove include_forwarded_for")
			}
		}
	}
	name := h.name()
	route := h.set.Routes[name]
	if route == nil {
		route = map[string]Value{}
		h.set.Routes[name] = route
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		text := keys[k]
		if held, twice := route[k]; twice {
			h.report(Warning, text, fmt.Sprintf("`%s` says `%s`, and holds", held.Label, shown(held.Text)), "remove one of the two")
			continue
		}
		route[k] = Value{Label: h.label, Text: text}
	}
	h.set.HRM[name] = HRMRoute{Label: h.label, Broken: broken}
}

// pairs takes the value apart. What cannot be read is told and left out.
func (h *hrm) pairs() map[string]string {
	said := map[string]string{}
	for part := range strings.SplitSeq(h.text, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		k, v, found := strings.Cut(part, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		switch before, twice := said[k]; {
		case !found:
			h.report(Warning, part, "has no equals sign, and is left out", "write `"+hrmExample+"`")
		case !slices.Contains(hrmKeys, k):
			hint := "the keys are " + strings.Join(hrmKeys, ", ")
			if near := config.Nearest(k, hrmKeys); near != "" {
				hint = "did you mean `" + near + "`?"
			}
			h.report(Warning, part, fmt.Sprintf("`%s` is not a key of HRM labels", shown(k)), hint)
		case twice && before != v:
			h.report(Warning, part, fmt.Sprintf("%s is said twice, and `%s` holds", k, shown(before)), "use a label of its own for each route")
		case !twice:
			said[k] = v
		}
	}
	return said
}

// external reads external_route. host is "" for every host that nobody has. Where
// not all of it can be served it is broken; not ok where no host can be made out.
func (h *hrm) external(text string) (host string, sni, broken, ok bool) {
	scheme, rest, found := strings.Cut(text, "://")
	switch {
	case !found:
		rest, broken = text, true
		h.report(Error, text, "external_route has no scheme: the route is not served, its host answers 503", "write `external_route=http://"+text+"`")
	case strings.EqualFold(scheme, "http"):
	case strings.EqualFold(scheme, "sni"):
		sni = true
	case strings.EqualFold(scheme, "https"):
		broken = true
		h.report(Error, text, "HRM did not end TLS, and external_route is http or sni: the route is not served, its host answers 503",
			"write `external_route=sni://"+rest+"` to pass TLS through, or `com.docker.lb.hosts` with `com.docker.lb.ssl_cert`")
	default:
		h.report(Error, text, fmt.Sprintf("%q is no scheme of external_route, so it takes no traffic", shown(scheme)), "write http:// or sni://")
		return "", false, true, false
	}
	rest, path, slash := strings.Cut(rest, "/")
	if slash && path != "" {
		broken = true
		h.report(Error, text, "external_route has a path: the route is not served, its host answers 503",
			"write `com.docker.lb.hosts` with `com.docker.lb.context_root: /"+shown(path)+"`")
	}
	if rest == "" {
		return "", sni, broken, true
	}
	host, portless, err := normaliseHost(rest, true)
	if err != nil {
		n := noteOf(err)
		h.report(Error, text, fmt.Sprintf("external_route: %q %s, so it takes no traffic", shown(rest), n.reason), n.hint)
		return "", false, true, false
	}
	if portless {
		h.report(Warning, text, "a host takes requests whatever the port in their Host header is; the port is dropped", "write `external_route="+scheme+"://"+host+"`")
	}
	return host, sni, broken, true
}

// redirect sends the whole host to a URL, with the request's path and 301.
func (h *hrm) redirect(keys map[string]string, host, text string) bool {
	scheme, rest, found := strings.Cut(text, "://")
	if found && strings.EqualFold(scheme, "sni") { // TLS of a host that is passed through
		text = "https://" + rest
	}
	if _, err := link.read(text); err != nil || !found || strings.ContainsAny(text, ";") {
		h.report(Error, text, "redirect is not a URL: the route is not served, its host answers 503", "write `redirect=https://app.example.com`")
		return false
	}
	if host == "" {
		keys["redirect"] = text
	} else {
		keys["redirects"] = host + "," + text
		if keys["port"] == "" {
			delete(keys, "hosts") // it only redirects, and needs no port
		}
	}
	keys["redirect_code"] = "301"
	return true
}

// name gives the label's route a name that nothing else of the service has.
func (h *hrm) name() string {
	base := hrmRouteName
	if suffix := strings.TrimPrefix(h.label, HRMPrefix); suffix != "" {
		suffix = strings.Trim(strings.Map(func(r rune) rune {
			switch {
			case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
				return r
			case r >= 'A' && r <= 'Z':
				return r + 'a' - 'A'
			}
			return '-'
		}, suffix), "-")
		suffix = strings.TrimRight(suffix[:min(len(suffix), hrmLongest)], "-")
		if suffix != "" {
			base += "-" + suffix
		}
	}
	name, taken := base, ""
	for n := 2; ; n++ {
		switch {
		case h.set.HRM[name].Label != "":
			taken = h.set.HRM[name].Label
		case h.set.claims(name):
			taken = firstLabel(h.set.Routes[name]).Label
		default:
			if taken != "" {
				h.report(Warning, h.text, fmt.Sprintf("the route `%s` is taken by `%s`, so this one is called `%s`", base, taken, name), "change the end of one of the two labels")
			}
			return name
		}
		name = fmt.Sprintf("%s-%d", base, n)
	}
}

// claims reports whether a route says by itself which traffic it takes.
func (s *Set) claims(route string) bool {
	for _, k := range []string{"hosts", "default_backend", "redirects", "tcp_port", "udp_port"} {
		if _, said := s.Routes[route][k]; said {
			return true
		}
	}
	return false
}

// wholeHosts gives the hosts that routes take without saying which part of them.
func (s *Set) wholeHosts() map[string]string {
	hosts := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(s.Routes)) {
		route := s.Routes[name]
		narrow := slices.ContainsFunc(slices.Collect(maps.Keys(route)), func(canonical string) bool {
			k, _, known := splitKey(canonical)
			return known && k.narrows && !(k.name == "context_root" && route[canonical].Text == "/")
		})
		if narrow {
			continue
		}
		if v, said := route["hosts"]; said {
			for _, host := range readHosts(v.Text).hosts {
				if hosts[host] == "" {
					hosts[host] = v.Label
				}
			}
		}
		if v, said := route["default_backend"]; said && hosts[""] == "" {
			if b, err := boolean.read(v.Text); err == nil && b {
				hosts[""] = v.Label
			}
		}
	}
	return hosts
}

// fromHRM makes problems of a route name the HRM label that it comes from, and the
// way to say what HRM cannot.
func (r *Route) fromHRM(from HRMRoute) {
	r.Broken = r.Broken || from.Broken
	r.LabelPrefix = "com.docker.lb." + r.Name + "."
	r.Labels["port"] = from.Label + "=…,internal_port"
	r.Labels["hosts"] = from.Label + "=…,external_route"
}
