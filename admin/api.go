package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds"
	"github.com/waggle-lb/waggle/xds/identity"
)

// Loop is what translates and publishes. *control.Control is one.
type Loop interface {
	Status() control.Status
	// Query runs f between two builds; f keeps nothing that it did not copy.
	Query(ctx context.Context, f func(*translate.Builder)) error
	Observe(f func(control.Step))
}

// Server is what proxies are connected to. *xds.Server is one.
type Server interface {
	Proxies() []xds.Proxy
	// Snapshot is what a collection is served: versions by kind and name; nil before anything is.
	Snapshot(collection string) map[translate.Kind]map[string]string
	// Quarantine is what is published and not served, because proxies reject it.
	Quarantine() []xds.Quarantined
	// Trials are the changes that one proxy has and the others do not yet.
	Trials() []xds.Trial
}

// Facts do not change while a control plane runs.
type Facts struct {
	Replica, Version, Revision string
	Started                    time.Time
	Insecure                   bool // the xDS channel has no TLS
}

// APIOptions are what an API reads from.
type APIOptions struct {
	Loop   Loop
	Server Server
	// Source names the source in use; it may change while the control plane runs.
	Source func() string
	Facts  Facts
	// Channel tells how the door of the channel is; nil: nothing is told.
	Channel func() identity.Status
	// Certificates tells what collections have; nil: nothing is told.
	Certificates func() []secrets.Certificate
	// Offered tells which collections new proxies are served from disk, and of when that is,
	// because there is no picture yet; nil: none.
	Offered func() map[string]time.Time
	// Look is how often readers of events have the proxies looked at; default 250 ms.
	Look time.Duration
}

// API is /api/v1: what the control plane knows, for reading. It asks the loop at
// most once per build, however many ask the API.
type API struct {
	o      APIOptions
	asking chan struct{} // holds one token; whoever has it may ask the loop
	latest atomic.Pointer[view]
	steps  hub
	now    func() time.Time

	lookMu  sync.Mutex
	looked  time.Time
	proxies []xds.Proxy // as of looked
}

// NewAPI makes the API of a control plane. It must be called before the loop runs.
func NewAPI(o APIOptions) *API {
	if o.Look <= 0 {
		o.Look = 250 * time.Millisecond
	}
	a := &API{o: o, asking: make(chan struct{}, 1), now: time.Now, steps: hub{readers: map[*reader]struct{}{}}}
	a.asking <- struct{}{}
	o.Loop.Observe(func(s control.Step) {
		if s.Kind == control.BuildStep {
			a.latest.Store(nil) // nobody needs what it keeps alive
		}
		a.steps.tell(s)
	})
	return a
}

// register adds the API's paths.
func (a *API) register(mux *http.ServeMux) {
	for path, answer := range map[string]func(*http.Request) (any, error){
		"/api/v1/status":                                     a.status,
		"/api/v1/collections":                                a.collections,
		"/api/v1/collections/{c}":                            a.collection,
		"/api/v1/collections/{c}/resources":                  a.resources,
		"/api/v1/collections/{c}/resources/{type}":           a.resources,
		"/api/v1/collections/{c}/resources/{type}/{name...}": a.resource,
		"/api/v1/services":                                   a.services,
		"/api/v1/services/{name}":                            a.service,
		"/api/v1/problems":                                   a.problems,
		"/api/v1/proxies":                                    a.connected,
		"/api/v1/certificates":                               a.certificates,
		"/api/v1/explain":                                    a.explain,
		"/api/": func(r *http.Request) (any, error) {
			return nil, refusal{http.StatusNotFound, fmt.Sprintf("there is no %s: the API has /api/v1/ status, collections, services, problems, proxies, certificates, explain and events", r.URL.Path)}
		},
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			v, err := answer(r)
			if err != nil {
				refuse(w, err)
				return
			}
			respond(w, http.StatusOK, v)
		})
	}
	mux.HandleFunc("GET /api/v1/events", a.events)
}

// refusal is an answer that is not 200, with a sentence.
type refusal struct {
	status   int
	sentence string
}

func (r refusal) Error() string { return r.sentence }

func badRequest(format string, args ...any) error {
	return refusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) error {
	return refusal{http.StatusNotFound, fmt.Sprintf(format, args...)}
}

func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if r, ok := errors.AsType[refusal](err); ok {
		status = r.status
	}
	respond(w, status, api.Error{Error: err.Error()})
}

func respond(w http.ResponseWriter, status int, v any) {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(v); err != nil {
		status = http.StatusInternalServerError
		body.Reset()
		fmt.Fprintln(&body, `{"error":"the answer cannot be written as JSON; this is a bug in Waggle"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = body.WriteTo(w) // a reader that has gone needs no answer
}

// one is the single value of a query parameter, "" if it is not there. An unknown or
// repeated parameter is an error: a filter that is not one would answer too much.
func one(r *http.Request, known ...string) (map[string]string, error) {
	out := map[string]string{}
	for name, values := range r.URL.Query() {
		ok := false
		for _, k := range known {
			ok = ok || k == name
		}
		switch {
		case !ok && len(known) == 0:
			return nil, badRequest("parameter %q is unknown: %s takes none", name, r.URL.Path)
		case !ok:
			return nil, badRequest("parameter %q is unknown: %s takes %v", name, r.URL.Path, known)
		case len(values) > 1:
			return nil, badRequest("parameter %q is given twice", name)
		}
		out[name] = values[0]
	}
	return out, nil
}
