package admin

import (
	"net/http"
	"time"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/xds"
)

// status is GET /api/v1/status. It never waits for a build.
func (a *API) status(r *http.Request) (any, error) {
	if _, err := one(r); err != nil {
		return nil, err
	}
	return a.Status(), nil
}

// Status is how this replica is.
func (a *API) Status() api.Status {
	s, f := a.o.Loop.Status(), a.o.Facts
	out := api.Status{
		Replica: f.Replica, Version: f.Version, Revision: f.Revision, Insecure: f.Insecure,
		Started: f.Started, Now: a.now(),
		Ready:  s.Ready,
		Source: api.Source{Name: a.o.Source(), Via: s.Via, Fallback: text(s.Fallback), Stale: s.SourceError != nil, Error: text(s.SourceError), LastRead: when(s.LastRead)},
		Config: api.Config{Error: text(s.ConfigError)},
		Builds: s.Builds, LastBuild: when(s.LastBuild), Held: make([]api.Held, 0, len(s.Held)),
	}
	for _, h := range s.Held {
		out.Held = append(out.Held, api.Held{Collection: h.Collection, Since: h.Since, Reason: h.Reason()})
	}
	if a.o.Channel != nil {
		c := a.o.Channel()
		out.Channel = api.Channel{CertificateEnds: when(c.NotAfter), Error: text(c.Problem), Refused: c.Refused, LastRefusal: text(c.LastRefusal)}
	}
	if s.Config != nil {
		out.Config.Hash = s.Config.Hash()
	}
	if !s.Ready {
		out.NotReady = "no complete picture of what runs is published yet"
	}
	if a.o.Offered != nil {
		out.FromDisk = a.o.Offered()
	}
	if len(out.FromDisk) > 0 {
		out.Source.Stale = true
		out.NotReady += "; new proxies get what was accepted last, from disk, the others keep what they have"
	}
	return out
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// collections is GET /api/v1/collections.
func (a *API) collections(r *http.Request) (any, error) {
	if _, err := one(r); err != nil {
		return nil, err
	}
	v, err := a.view(r)
	if err != nil {
		return nil, err
	}
	return v.collections(a.o.Server.Proxies(), a.o.Server.Trials()), nil
}

// collection is GET /api/v1/collections/{c}.
func (a *API) collection(r *http.Request) (any, error) {
	if _, err := one(r); err != nil {
		return nil, err
	}
	v, err := a.view(r)
	if err != nil {
		return nil, err
	}
	name := r.PathValue("c")
	if err := v.has(name); err != nil {
		return nil, err
	}
	for _, c := range v.collections(a.o.Server.Proxies(), a.o.Server.Trials()).Collections {
		if c.Name == name {
			return c, nil
		}
	}
	return nil, notFound("collection %q has just gone", name)
}

func (v *view) collections(proxies []xds.Proxy, trials []xds.Trial) api.Collections {
	out := api.Collections{Collections: []api.Collection{}}
	at := map[string]*api.Collection{}
	for _, name := range v.names() {
		cfg, served := v.status.Config.Collections[name], v.served[name]
		out.Collections = append(out.Collections, api.Collection{
			Name: name, Default: cfg.Default, Bind: cfg.Bind, HTTPPort: cfg.HTTPPort, HTTPSPort: cfg.HTTPSPort,
			TCPPorts: list(cfg.TCPPorts), UDPPorts: list(cfg.UDPPorts),
			Published: served.generation != "", Generation: served.generation, Resources: served.counts,
			Quarantine: []api.Quarantined{},
		})
	}
	for i := range out.Collections {
		at[out.Collections[i].Name] = &out.Collections[i]
	}
	for _, s := range v.services {
		if c := at[s.Collection]; c != nil {
			c.Services++
			c.Endpoints += s.Endpoints
		} else {
			out.Nowhere.Services++
		}
	}
	for _, p := range v.problems {
		if c := at[p.Collection]; c != nil {
			c.Problems.Add(p.Severity)
		} else {
			out.Nowhere.Problems.Add(p.Severity)
		}
	}
	for _, t := range trials {
		if c := at[t.Collection]; c != nil {
			c.Canary = &api.Canary{Since: t.Since, Proxies: list(t.Canaries), Changes: t.Changes}
		}
	}
	for _, q := range v.held {
		if c := at[q.Collection]; c != nil {
			c.Quarantine = append(c.Quarantine, quarantined(q))
		}
	}
	for _, p := range proxies {
		c := at[p.Collection]
		if c == nil {
			continue // retired: see /api/v1/proxies
		}
		c.Proxies.Connected++
		if p.Current {
			c.Proxies.Current++
		}
		if proxy(p, false).Rejecting() {
			c.Proxies.Rejecting++
		}
	}
	return out
}

// list is never null in JSON.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
