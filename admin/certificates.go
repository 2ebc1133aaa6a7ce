package admin

import (
	"net/http"

	"github.com/waggle-lb/waggle/admin/api"
)

// certificates is GET /api/v1/certificates.
func (a *API) certificates(r *http.Request) (any, error) {
	q, err := one(r, "collection")
	if err != nil {
		return nil, err
	}
	if cfg := a.o.Loop.Status().Config; q["collection"] != "" && cfg != nil && cfg.Collections[q["collection"]] == nil {
		return nil, notFound("collection %q is unknown", q["collection"])
	}
	out := api.Certificates{Certificates: []api.Certificate{}}
	if a.o.Certificates == nil {
		return out, nil
	}
	for _, c := range a.o.Certificates() {
		if q["collection"] == "" || c.Collection == "" || c.Collection == q["collection"] {
			out.Certificates = append(out.Certificates, api.Certificate{
				Collection: c.Collection, Source: c.Source, Name: c.Name, Hosts: list(c.Hosts), Issuer: c.Issuer, Serial: c.Serial,
				NotBefore: when(c.NotBefore), NotAfter: when(c.NotAfter), Rotated: when(c.Rotated), Kept: c.Kept, Error: c.Error,
			})
		}
	}
	return out, nil
}
