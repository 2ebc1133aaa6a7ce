package main

import (
	"fmt"
	"os"
	"time"

	"github.com/waggle-lb/waggle/admin"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/xds"
)

// newAPI is the API of a control plane, on its rooms.
func (p controlPlane) newAPI(loop *control.Control, server *xds.Server, inventory *secrets.Inventory) *admin.API {
	return admin.NewAPI(admin.APIOptions{
		Loop: loop, Server: server, Source: p.source.Name, Channel: p.guard.Status, Certificates: inventory.Certificates, Offered: server.Offered,
		Facts: admin.Facts{
			Replica: replica(), Version: version, Revision: revision(), Started: time.Now(), Insecure: p.cfg.XDS.Insecure,
		},
	})
}

// replica tells this control plane from the others: by its host, which in a container
// is the container's ID, and where that is not enough, by its process.
func replica() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	if pid := os.Getpid(); pid != 1 {
		return fmt.Sprintf("%s/%d", host, pid)
	}
	return host
}
