package admin

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"slices"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// services is GET /api/v1/services.
func (a *API) services(r *http.Request) (any, error) {
	q, err := one(r, "collection")
	if err != nil {
		return nil, err
	}
	v, err := a.view(r)
	if err != nil {
		return nil, err
	}
	if c := q["collection"]; c != "" {
		if err := v.has(c); err != nil {
			return nil, err
		}
	}
	problems := map[string]*api.Counts{} // by service
	for _, p := range v.problems {
		c := problems[p.Service]
		if c == nil {
			c = &api.Counts{}
			problems[p.Service] = c
		}
		c.Add(p.Severity)
	}
	out := api.Services{Services: make([]api.Service, 0, len(v.services))}
	for _, s := range v.services {
		if c := q["collection"]; c == "" || c == s.Collection {
			out.Services = append(out.Services, service(s, problems[s.Name]))
		}
	}
	return out, nil
}

func service(s translate.ServiceView, problems *api.Counts) api.Service {
	out := api.Service{Name: s.Name, Collection: s.Collection, EndpointCount: s.Endpoints, Routes: make([]api.Route, 0, len(s.Routes))}
	if problems != nil {
		out.ProblemCounts = *problems
	}
	for _, r := range s.Routes {
		out.Routes = append(out.Routes, api.Route{
			Name: r.Name, Hosts: list(r.Hosts), Lost: list(r.Lost), Path: r.Path, Cluster: r.Cluster, State: string(r.State),
		})
	}
	return out
}

// service is GET /api/v1/services/{name}. Of several services of one name it is the
// one that is published.
func (a *API) service(r *http.Request) (any, error) {
	if _, err := one(r); err != nil {
		return nil, err
	}
	v, err := a.view(r)
	if err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	out := api.ServiceDetail{Endpoints: []api.Endpoint{}, Problems: []api.Problem{}}
	for _, p := range v.problems {
		if p.Service == name {
			out.Problems = append(out.Problems, p)
			out.ProblemCounts.Add(p.Severity)
		}
	}
	counts, found := out.ProblemCounts, false
	for _, s := range v.services {
		if s.Name != name || found && s.Collection == "" {
			continue
		}
		found = true
		out.Service = service(s, &counts)
	}
	if !found {
		if _, runs := v.named(name); runs {
			return nil, notFound("service %q runs and has no labels that publish anything", name)
		}
		return nil, notFound("service %q is unknown; names are whole, as in «docker service ls»: stack_service", name)
	}
	out.Endpoints = v.endpoints(out.Service)
	return out, nil
}

// named finds a service of the picture: the oldest of its name.
func (v *view) named(name string) (*watcher.Service, bool) {
	var first *watcher.Service
	if v.status.Picture != nil {
		for _, s := range v.status.Picture.Services {
			if s.Name == name && (first == nil || s.Older(first)) {
				first = s
			}
		}
	}
	return first, first != nil
}

// endpoints are those that the service's clusters are served.
func (v *view) endpoints(s api.Service) []api.Endpoint {
	out := []api.Endpoint{}
	var clusters []string
	for _, r := range s.Routes {
		if r.Cluster != "" && !slices.Contains(clusters, r.Cluster) {
			clusters = append(clusters, r.Cluster)
		}
	}
	states := v.states(s.Name)
	for _, name := range clusters {
		res := v.resources[s.Collection][translate.Endpoints][name]
		if res == nil {
			continue
		}
		cla, ok := res.Message.(*endpointv3.ClusterLoadAssignment)
		if !ok {
			continue
		}
		for _, group := range cla.GetEndpoints() {
			for _, lb := range group.GetLbEndpoints() {
				e := endpoint(name, lb)
				e.Priority = group.GetPriority()
				e.State = cmp.Or(states[e.Task], api.EndpointUnknown)
				out = append(out, e)
			}
		}
	}
	return out
}

func endpoint(cluster string, lb *endpointv3.LbEndpoint) api.Endpoint {
	a := lb.GetEndpoint().GetAddress().GetSocketAddress()
	says := lb.GetMetadata().GetFilterMetadata()[translate.MetadataKey].GetFields()
	return api.Endpoint{
		Cluster: cluster,
		Address: net.JoinHostPort(a.GetAddress(), fmt.Sprint(a.GetPortValue())),
		Task:    says["task"].GetStringValue(),
		Node:    says["node"].GetStringValue(),
		Slot:    int(says["slot"].GetNumberValue()),
	}
}

// states says how the tasks of a service are, by what endpoints call them.
func (v *view) states(name string) map[string]string {
	out := map[string]string{name: api.EndpointVirtual}
	spec, ok := v.named(name)
	if !ok {
		return out
	}
	for _, t := range v.status.Picture.Tasks[spec.ID] {
		node := v.status.Picture.Nodes[t.NodeID]
		switch {
		case node != nil && node.Down:
			out[t.ID] = api.EndpointNodeDown
		case t.Ready():
			out[t.ID] = api.EndpointReady
		case t.Leaving():
			out[t.ID] = api.EndpointLeaving
		}
	}
	return out
}

// problems is GET /api/v1/problems.
func (a *API) problems(r *http.Request) (any, error) {
	q, err := one(r, "collection", "severity", "service")
	if err != nil {
		return nil, err
	}
	switch s := labels.Severity(q["severity"]); s {
	case "", labels.Error, labels.Warning, labels.Info:
	default:
		return nil, badRequest("severity %q is unknown: use error, warning or info", q["severity"])
	}
	s := a.o.Loop.Status()
	if c := q["collection"]; c != "" {
		if err := (&view{status: s}).has(c); err != nil {
			return nil, err
		}
	}
	problems := s.Problems
	if len(a.o.Server.Quarantine()) > 0 { // whose that is, only the loop knows
		v, err := a.view(r)
		if err != nil {
			return nil, err
		}
		problems = v.problems
	}
	out := api.Problems{Problems: []api.Problem{}}
	for _, p := range problems {
		if (q["collection"] == "" || q["collection"] == p.Collection) &&
			(q["severity"] == "" || q["severity"] == string(p.Severity)) &&
			(q["service"] == "" || q["service"] == p.Service) {
			out.Problems = append(out.Problems, p)
		}
	}
	return out, nil
}
