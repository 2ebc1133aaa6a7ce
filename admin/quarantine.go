package admin

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/xds"
)

// rejections are what proxies reject as problems of the services that brought it, in the
// proxies' own words. What belongs to no single service is a problem of its collection.
func rejections(held []xds.Quarantined, services []translate.ServiceView) []api.Problem {
	var out []api.Problem
	for _, q := range held {
		problem := func(service, what, hint string) {
			out = append(out, api.Problem{
				Severity: labels.Error, Service: service, Collection: q.Collection,
				Reason: fmt.Sprintf("a proxy rejected %s: %s", what, cmp.Or(q.Message, "it did not say why")), Hint: hint,
			})
		}
		what := singular[q.Kind] + " " + q.Name
		switch {
		case q.Kind == translate.Routes && len(q.Hosts) > 0:
			for service, hosts := range owners(q, services) {
				problem(service, fmt.Sprintf("the newest version of %s in %s", some(hosts), what), hostHint(q, hosts))
			}
		case q.Serving == "":
			problem(owner(q, services), what, "nothing is served in its place, because it is new; change the labels")
		default:
			problem(owner(q, services), "the newest version of "+what, "the version that proxies accepted before is served until the labels change")
		}
	}
	return out
}

var singular = map[translate.Kind]string{
	translate.Listener: "listener", translate.Routes: "route table", translate.Cluster: "cluster",
	translate.Endpoints: "endpoints of cluster", translate.Secret: "secret", translate.Extension: "filter",
}

// owner is the service of a cluster ("stack_service:8080/route"); "" where there is none.
func owner(q xds.Quarantined, services []translate.ServiceView) string {
	if q.Kind != translate.Cluster && q.Kind != translate.Endpoints {
		return ""
	}
	name, _, _ := strings.Cut(q.Name, ":")
	if slices.ContainsFunc(services, func(s translate.ServiceView) bool { return s.Name == name && s.Collection == q.Collection }) {
		return name
	}
	return "" // a server outside the Swarm
}

// owners are the hosts that are concerned, by the services that have routes there: which
// of them brought what is rejected no proxy says.
func owners(q xds.Quarantined, services []translate.ServiceView) map[string][]string {
	out := map[string][]string{}
	for _, host := range q.Hosts {
		found := false
		for _, s := range services {
			if s.Collection == q.Collection && slices.ContainsFunc(s.Routes, func(r translate.RouteView) bool { return slices.Contains(r.Hosts, host) }) {
				out[s.Name], found = append(out[s.Name], host), true
			}
		}
		if !found {
			out[""] = append(out[""], host)
		}
	}
	return out
}

func hostHint(q xds.Quarantined, hosts []string) string {
	var closed []string
	for _, h := range hosts {
		if slices.Contains(q.Closed, h) {
			closed = append(closed, h)
		}
	}
	const before = "what proxies accepted of it before is served, and nothing of what is new, until the labels change"
	switch len(closed) {
	case 0:
		return before
	case len(hosts):
		return "503 is answered until the labels change: who may pass is different, and the version before would let others in"
	}
	return fmt.Sprintf("%s; %s answers 503: who may pass is different there", before, some(closed))
}

// some names things without filling the line.
func some(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s … (%d)", strings.Join(names[:3], ", "), len(names))
	}
	return strings.Join(names, ", ")
}

// withRejections are the problems of the labels and those of what proxies reject, in the
// order of the first.
func withRejections(problems, rejected []api.Problem) []api.Problem {
	if len(rejected) == 0 {
		return problems
	}
	all := slices.Concat(problems, rejected)
	slices.SortStableFunc(all, func(a, b api.Problem) int {
		return cmp.Or(cmp.Compare(a.Collection, b.Collection), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Label, b.Label),
			cmp.Compare(a.Value, b.Value), cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Reason, b.Reason))
	})
	return slices.Compact(all)
}

func quarantined(q xds.Quarantined) api.Quarantined {
	return api.Quarantined{
		Kind: q.Kind.String(), Name: q.Name, Hosts: list(q.Hosts), Closed: list(q.Closed),
		Rejected: q.Rejected, Serving: q.Serving, Since: q.Since, Proxies: q.Proxies, Message: q.Message,
	}
}
