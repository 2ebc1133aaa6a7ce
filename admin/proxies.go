package admin

import (
	"net/http"
	"time"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/xds"
)

// connected is GET /api/v1/proxies.
func (a *API) connected(r *http.Request) (any, error) {
	q, err := one(r, "collection")
	if err != nil {
		return nil, err
	}
	exists := map[string]bool{}
	if cfg := a.o.Loop.Status().Config; cfg != nil {
		for name := range cfg.Collections {
			exists[name] = true
		}
	}
	out := api.Proxies{Proxies: []api.Proxy{}}
	seen := q["collection"] == "" || exists[q["collection"]]
	for _, p := range a.o.Server.Proxies() {
		if c := q["collection"]; c == "" || c == p.Collection {
			seen = true
			out.Proxies = append(out.Proxies, proxy(p, !exists[p.Collection]))
		}
	}
	if !seen {
		return nil, notFound("collection %q is unknown", q["collection"])
	}
	return out, nil
}

func proxy(p xds.Proxy, retired bool) api.Proxy {
	out := api.Proxy{
		NodeID: p.NodeID, Collection: p.Collection, Instance: p.Instance, Version: p.Version, Address: p.Address,
		Connected: p.Connected, Current: p.Current, Retired: retired, Kinds: make([]api.ProxyKind, 0, len(p.Kinds)),
	}
	for _, k := range p.Kinds {
		out.Kinds = append(out.Kinds, api.ProxyKind{
			Kind: k.Kind.String(), Sent: k.Sent, ACKed: k.ACKed, Resources: k.Resources, Current: k.Current, Rejected: list(k.Rejected),
		})
		if n := k.NACK; n != nil && (out.LastNACK == nil || n.At.After(out.LastNACK.At)) {
			out.LastNACK = nack(k)
		}
	}
	return out
}

func nack(k xds.ProxyKind) *api.NACK {
	return &api.NACK{At: k.NACK.At, Kind: k.Kind.String(), Version: k.NACK.Version, Resources: list(k.NACK.Resources), Message: k.NACK.Message}
}

// look gives the proxies as they were at most a look ago: all readers of events
// share one look at them.
func (a *API) look() []xds.Proxy {
	a.lookMu.Lock()
	defer a.lookMu.Unlock()
	if now := time.Now(); now.Sub(a.looked) >= a.o.Look/2 {
		a.looked, a.proxies = now, a.o.Server.Proxies()
	}
	return a.proxies
}
