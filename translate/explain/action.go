package explain

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/waggle-lb/waggle/translate"
)

// act says what the route that took the request does with it.
func (a *Answer) act(res translate.Resources, w *way, q *request, r *routev3.Route) error {
	if guards := guardsOf(r); len(guards) > 0 {
		a.because("before that the request must pass " + strings.Join(guards, ", "))
	}
	switch action := r.GetAction().(type) {
	case *routev3.Route_Redirect:
		a.Action = Redirect
		a.Status = redirectCodes[action.Redirect.GetResponseCode()]
		a.Location = location(action.Redirect, r.GetMatch(), q)
		a.because("the route redirects")
	case *routev3.Route_DirectResponse:
		a.Status = int(action.DirectResponse.GetStatus())
		if a.Reason = reasonOf(r.GetResponseHeadersToAdd()); a.Reason == "" {
			a.Action = Respond
			a.because(fmt.Sprintf("the route answers %d by itself", a.Status))
			return nil
		}
		a.Action = Reject
		a.because(fmt.Sprintf("the proxy answers %d by itself: %s", a.Status, strings.TrimSpace(action.DirectResponse.GetBody().GetInlineString())))
	case *routev3.Route_Route:
		return a.forward(res, w, q, r, action.Route)
	default:
		return fmt.Errorf("route %q does something that explain does not read", r.GetName())
	}
	return nil
}

// guardsOf names the guards that a route switches on, in the order of the chain.
func guardsOf(r *routev3.Route) []string {
	return slices.DeleteFunc(translate.GuardFilters(), func(name string) bool { return r.GetTypedPerFilterConfig()[name] == nil })
}

var redirectCodes = map[routev3.RedirectAction_RedirectResponseCode]int{
	routev3.RedirectAction_MOVED_PERMANENTLY:  http.StatusMovedPermanently,
	routev3.RedirectAction_FOUND:              http.StatusFound,
	routev3.RedirectAction_SEE_OTHER:          http.StatusSeeOther,
	routev3.RedirectAction_TEMPORARY_REDIRECT: http.StatusTemporaryRedirect,
	routev3.RedirectAction_PERMANENT_REDIRECT: http.StatusPermanentRedirect,
}

// forward follows a route to its endpoints.
func (a *Answer) forward(res translate.Resources, w *way, q *request, r *routev3.Route, action *routev3.RouteAction) error {
	a.Action = Forward
	if path := rewritten(action, r.GetMatch(), q.path); path != q.path {
		a.Request.Upstream = path
		a.because("the task sees the path " + path)
	}
	switch {
	case action.GetCluster() != "":
		a.Cluster = action.GetCluster()
	case action.GetWeightedClusters() != nil:
		if err := a.share(res, action.GetWeightedClusters()); err != nil {
			return err
		}
	default:
		return fmt.Errorf("route %q chooses its cluster in a way that explain does not read", r.GetName())
	}
	if a.Cluster == "" { // every weight is 0
		a.noTask(w, "no service behind the route takes requests")
		return nil
	}
	a.Service = serviceOf(a.Cluster)
	targets, err := endpointsOf(res, a.Cluster)
	if err != nil {
		return err
	}
	a.Endpoints = targets
	switch {
	case res[translate.Cluster][a.Cluster] == nil:
		a.Status, a.Reason = http.StatusServiceUnavailable, w.localReason("NC")
		a.because(fmt.Sprintf("the cluster %s is not there", a.Cluster))
	case len(targets) == 0:
		a.noTask(w, a.Service+" has no running task")
	case len(a.Shares) == 0:
		a.standIn(targets)
	}
	return nil
}

// standIn says that another service takes requests where the one of the cluster
// cannot (failover): its tasks are among the endpoints.
func (a *Answer) standIn(targets []Target) {
	own, name := false, ""
	for _, t := range targets {
		if t.Priority < translate.StandInPriority {
			own = true
		} else if i := strings.LastIndexByte(t.Task, '.'); i >= 0 { // a Swarm's tasks have IDs instead
			name = t.Task[:i]
		}
	}
	other := cmp.Or(name, "the service of its failover")
	switch last := targets[len(targets)-1]; {
	case last.Priority < translate.StandInPriority:
	case own:
		a.because(fmt.Sprintf("while no task of %s is healthy, %s stands in for it", a.Service, other))
	default:
		a.because(fmt.Sprintf("%s has no running task: %s stands in for it", a.Service, other))
		a.Service = cmp.Or(name, a.Service)
	}
}

func (a *Answer) noTask(w *way, why string) {
	a.Status, a.Reason = http.StatusServiceUnavailable, w.localReason("UH")
	a.because(why + ": the proxy answers 503 by itself")
}

// share lists the services of a route that several share, the largest first.
func (a *Answer) share(res translate.Resources, clusters *routev3.WeightedCluster) error {
	var total uint64
	for _, c := range clusters.GetClusters() {
		targets, err := endpointsOf(res, c.GetName())
		if err != nil {
			return err
		}
		weight := c.GetWeight().GetValue()
		total += uint64(weight)
		a.Shares = append(a.Shares, Share{Service: serviceOf(c.GetName()), Cluster: c.GetName(), Weight: weight, Endpoints: targets})
	}
	slices.SortStableFunc(a.Shares, func(x, y Share) int {
		return cmp.Or(cmp.Compare(y.Weight, x.Weight), strings.Compare(x.Cluster, y.Cluster))
	})
	if total == 0 {
		return nil
	}
	a.Cluster = a.Shares[0].Cluster
	if len(a.Shares) > 1 {
		var parts []string
		for _, s := range a.Shares {
			parts = append(parts, fmt.Sprintf("%s %s", s.Service, percent(s.Weight, total)))
		}
		a.because("shared by weight: " + strings.Join(parts, ", "))
	}
	return nil
}

// percent is a share in words, with a digit after the point where it needs one.
func percent(part uint32, total uint64) string {
	s := strconv.FormatFloat(float64(part)*100/float64(total), 'f', 1, 64)
	return strings.TrimSuffix(s, ".0") + " %"
}

// endpointsOf lists the endpoints of a cluster that Envoy sends requests to.
func endpointsOf(res translate.Resources, cluster string) ([]Target, error) {
	targets := []Target{}
	r := res[translate.Endpoints][cluster]
	if r == nil {
		return targets, nil
	}
	cla, ok := r.Message.(*endpointv3.ClusterLoadAssignment)
	if !ok {
		return nil, fmt.Errorf("endpoints of %q are not some", cluster)
	}
	for _, locality := range cla.GetEndpoints() {
		for _, e := range locality.GetLbEndpoints() {
			switch e.GetHealthStatus() {
			case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_DRAINING, corev3.HealthStatus_TIMEOUT:
				continue
			}
			s := e.GetEndpoint().GetAddress().GetSocketAddress()
			meta := e.GetMetadata().GetFilterMetadata()[translate.MetadataKey].GetFields()
			targets = append(targets, Target{
				Address:  net.JoinHostPort(s.GetAddress(), strconv.FormatUint(uint64(s.GetPortValue()), 10)),
				Task:     meta["task"].GetStringValue(),
				Node:     meta["node"].GetStringValue(),
				Slot:     int(meta["slot"].GetNumberValue()),
				Priority: locality.GetPriority(),
			})
		}
	}
	slices.SortStableFunc(targets, func(x, y Target) int {
		return cmp.Or(cmp.Compare(x.Priority, y.Priority), cmp.Compare(x.Slot, y.Slot), strings.Compare(x.Address, y.Address))
	})
	return targets, nil
}

// rewritten is the path that the task sees.
func rewritten(action *routev3.RouteAction, m *routev3.RouteMatch, path string) string {
	if p := action.GetPrefixRewrite(); p != "" {
		return replacePrefix(m, path, p)
	}
	if re := action.GetRegexRewrite(); re != nil {
		return replaceRegex(re, path)
	}
	return path
}

// replacePrefix puts another beginning in place of what the route matched.
func replacePrefix(m *routev3.RouteMatch, path, by string) string {
	plain := bare(path)
	matched := plain // exact paths and expressions: all of it
	if p := prefixOf(m); p != "" {
		matched = plain[:min(len(p), len(plain))]
	}
	return by + path[len(matched):]
}

func replaceRegex(re *matcherv3.RegexMatchAndSubstitute, path string) string {
	expr, err := regexp.Compile(re.GetPattern().GetRegex())
	if err != nil {
		return path
	}
	plain := bare(path)
	// RE2 writes \1 where Go writes ${1}.
	by := backReference.ReplaceAllString(strings.ReplaceAll(re.GetSubstitution(), "$", "$$"), "$${$1}")
	return expr.ReplaceAllString(plain, by) + path[len(plain):]
}

var backReference = regexp.MustCompile(`\\([0-9])`)

// location is where a redirect leads (Envoy's Http::Utility::newUri).
func location(r *routev3.RedirectAction, m *routev3.RouteMatch, q *request) string {
	scheme := q.scheme
	switch {
	case r.GetSchemeRedirect() != "":
		scheme = r.GetSchemeRedirect()
	case r.GetHttpsRedirect():
		scheme = "https"
	}
	port := ""
	if p := r.GetPortRedirect(); p != 0 {
		port = ":" + strconv.FormatUint(uint64(p), 10)
	}
	host := r.GetHostRedirect()
	if host == "" {
		host = q.host
		if i := portStart(host); i >= 0 {
			standard := q.scheme == "http" && host[i:] == ":80" || q.scheme == "https" && host[i:] == ":443"
			if port != "" || scheme != q.scheme && standard {
				host = host[:i]
			}
		}
	}
	path, query := q.path, true
	switch {
	case strings.Contains(r.GetPathRedirect(), "?"):
		path, query = r.GetPathRedirect(), false
	case r.GetPathRedirect() != "":
		path = r.GetPathRedirect() + q.path[len(bare(q.path)):]
	case r.GetPrefixRewrite() != "":
		path = replacePrefix(m, q.path, r.GetPrefixRewrite())
	case r.GetRegexRewrite() != nil:
		path = replaceRegex(r.GetRegexRewrite(), q.path)
	}
	if query && r.GetStripQuery() {
		path = bare(path)
	}
	return scheme + "://" + host + port + path
}
