// Package explain says what a collection's proxies do with one request and why:
// it walks the generated Envoy resources by Envoy's own rules, so that what it
// says is what is served, not what was meant.
package explain

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/labels"
)

// Request is what is asked about. Header may hold Host, which then counts instead of the URL's.
type Request struct {
	Collection string
	Method     string // GET if empty
	URL        string // with or without http://
	Header     http.Header
}

// Action is what the proxy does.
type Action string

// The actions. Respond is an answer that labels ask for; reject is one that the
// proxy gives because it cannot or may not pass the request on.
const (
	Forward  Action = "forward"
	Redirect Action = "redirect"
	Respond  Action = "respond"
	Reject   Action = "reject"
)

// Answer is what becomes of a request.
type Answer struct {
	Collection string `json:"collection"`
	Request    Asked  `json:"request"`
	Virtual    string `json:"virtual_host"`
	Route      string `json:"route"`
	// Certificate is the secret with which the connection is served; "" without TLS.
	Certificate string   `json:"certificate,omitempty"`
	Service     string   `json:"service"`
	Cluster     string   `json:"cluster"`
	Endpoints   []Target `json:"endpoints"`
	Action      Action   `json:"action"`
	// Status is the proxy's own; 0 where the task answers.
	Status int `json:"status"`
	// Reason is the x-waggle-reason of an answer that the proxy makes itself.
	Reason   string `json:"reason,omitempty"`
	Location string `json:"location"`
	// Shares is set where several services share the route; Service, Cluster and
	// Endpoints are then those of the largest share.
	Shares  []Share  `json:"shares,omitempty"`
	Because []string `json:"because"`
	Lost    []Loser  `json:"lost"`
}

// Asked is the request as the proxy matches it.
type Asked struct {
	Method string `json:"method"`
	URL    string `json:"url"`
	Host   string `json:"host"`
	Path   string `json:"path"` // normalised, with the query
	// Upstream is the path that the task sees, where it is another one.
	Upstream string `json:"upstream_path,omitempty"`
}

// Target is one endpoint that may take the request.
type Target struct {
	Address string `json:"address"`
	Task    string `json:"task,omitempty"`
	Node    string `json:"node,omitempty"`
	Slot    int    `json:"slot,omitempty"`
	// Priority above 0 is used only while none below is left.
	Priority uint32 `json:"priority,omitempty"`
}

// Share is one of several services behind a route.
type Share struct {
	Service   string   `json:"service"`
	Cluster   string   `json:"cluster"`
	Weight    uint32   `json:"weight"`
	Endpoints []Target `json:"endpoints"`
}

// Loser is a route or a claim that does not get this request.
type Loser struct {
	Service string `json:"service"`
	Route   string `json:"route"`
	Reason  string `json:"reason"`
}

// Explain walks the resources of a collection with one request. The problems are
// those of the same build: those about the request's host tell which claims were
// lost. An error means that the question is not a request (a malformed URL), or
// that the resources hold what this package does not read.
func Explain(res translate.Resources, req Request, problems []translate.Problem) (*Answer, error) {
	a := &Answer{Collection: req.Collection, Endpoints: []Target{}, Because: []string{}, Lost: []Loser{}}
	q, err := parse(req)
	if err != nil {
		return nil, err
	}
	a.Request = Asked{Method: q.method, URL: q.url, Host: q.host, Path: q.path}
	a.because(q.notes...)
	if q.method == http.MethodConnect {
		a.reject(http.StatusNotFound, "", "tunnels (CONNECT) are not proxied")
		return a, nil
	}

	w, listens, err := wayFor(res, q)
	if err != nil {
		return nil, err
	}
	if w == nil {
		if listens {
			a.reject(0, "", fmt.Sprintf("no certificate of collection %s is for %s: the handshake is refused", req.Collection, cmp.Or(q.server, "connections that name no host")))
		} else {
			a.reject(0, "", fmt.Sprintf("no listener of collection %s serves %s: the connection is refused", req.Collection, q.scheme))
		}
		a.because(certificateTroubles(problems, req.Collection)...)
		return a, nil
	}
	if goesOn, err := a.connect(res, q, w); err != nil || !goesOn {
		return a, err
	}
	if !a.normalise(q, w) {
		return a, nil
	}
	table, err := routeTable(res, w.table)
	if err != nil {
		return nil, err
	}
	if table == nil {
		a.reject(http.StatusNotFound, w.localReason("NR"), fmt.Sprintf("the route table %q of the listener is not there", w.table))
		return a, nil
	}
	w.headers(q)

	host, chosen := chooseHost(table, q.host, w.port)
	if host == nil {
		a.reject(http.StatusNotFound, w.localReason("NR"), fmt.Sprintf("nobody claims host %s, and there is no route for unknown hosts", q.host))
		return a, nil
	}
	a.Virtual = host.GetName()
	a.because(chosen)
	if reason, is, err := w.covered(host, q.host); err != nil {
		return nil, err
	} else if !is {
		a.reject(http.StatusMisdirectedRequest, reason, fmt.Sprintf("the certificate of the connection is not for %s", q.host))
		return a, nil
	}
	if host.GetMatcher() != nil {
		return nil, fmt.Errorf("virtual host %q is matched by a tree, which explain does not read", host.GetName())
	}
	if host.GetRequireTls() == routev3.VirtualHost_ALL && q.scheme != "https" {
		a.Action, a.Status = Redirect, http.StatusMovedPermanently
		a.Location = "https://" + q.host + q.path
		a.because("this host is served over HTTPS alone")
		return a, nil
	}

	v := visit(host.GetRoutes(), q)
	a.Lost = append(a.Lost, v.lost...)
	a.Lost = append(a.Lost, lostClaims(problems, req.Collection, host.GetDomains())...)
	if v.route == nil {
		a.reject(http.StatusNotFound, w.localReason("NR"), fmt.Sprintf("host %s has no route for %s %s", q.host, q.method, bare(q.path)))
		return a, nil
	}
	a.Route = v.route.GetName()
	a.Service = serviceOf(v.route.GetName())
	a.because(v.why...)
	if err := a.act(res, w, q, v.route); err != nil {
		return nil, err
	}
	if a.Status >= 500 {
		a.because(troubles(problems, req.Collection, a.Service)...)
	}
	return a, nil
}

// troubles are the errors of a service: what is behind a 503 of the proxy's own.
func troubles(problems []translate.Problem, collection, service string) []string {
	const most = 5
	var out []string
	for _, p := range problems {
		if p.Service != service || service == "" || p.Severity != labels.Error || p.Collection != "" && p.Collection != collection {
			continue
		}
		if len(out) == most {
			return append(out, "more: see waggle lint")
		}
		sentence := p.Reason
		switch {
		case p.Label != "" && p.Value != "":
			sentence = fmt.Sprintf("%s %q: %s", p.Label, p.Value, p.Reason)
		case p.Label != "":
			sentence = p.Label + ": " + p.Reason
		}
		if p.Hint != "" {
			sentence += "; " + p.Hint
		}
		out = append(out, sentence)
	}
	return out
}

func (a *Answer) because(sentences ...string) { a.Because = append(a.Because, sentences...) }

func (a *Answer) reject(status int, reason, why string) {
	a.Action, a.Status, a.Reason = Reject, status, reason
	a.because(why)
}

// serviceOf is the service of a route name ("stack_service/route#safe") or of a
// cluster name ("stack_service:8080/route"); "" for the proxy's own ("waggle:unknown_host").
func serviceOf(name string) string {
	if strings.HasPrefix(name, "waggle:") {
		return ""
	}
	if i := strings.IndexAny(name, "/#:"); i >= 0 {
		return name[:i]
	}
	return name
}

// lostClaims are the claims of the host that conflicts took away.
func lostClaims(problems []translate.Problem, collection string, domains []string) []Loser {
	var lost []Loser
	for _, p := range problems {
		if p.Winner == "" || p.Winner == p.Service || p.Severity == labels.Warning || p.Collection != collection {
			continue
		}
		for _, d := range domains {
			// Behind the host stands what is claimed of it: nothing, a path, or ~ and an expression.
			if rest, ok := strings.CutPrefix(p.Value, d); ok && (rest == "" || rest[0] == '/' || rest[0] == '~') {
				lost = append(lost, Loser{Service: p.Service, Reason: fmt.Sprintf("its claim of %s is held by %s: %s", p.Value, p.Winner, p.Reason)})
				break
			}
		}
	}
	return lost
}
