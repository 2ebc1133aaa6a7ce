package lab

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// taskPort is a container port that a task listens on.
type taskPort struct {
	target  uint32
	network string // "tcp" or "udp"
	raw     bool   // echo bytes instead of speaking HTTP
}

// portsOf finds every container port of a service that something may be sent to:
// published, exposed, or named by a port label. further are those of operators'
// defaults, which hold for any route that names none.
func portsOf(spec *watcher.Service, prefixes []string, further []uint32) []taskPort {
	var ports []taskPort
	add := func(p taskPort) {
		if p.target < 1 || p.target > 65535 {
			return
		}
		same := func(q taskPort) bool { return q.target == p.target && q.network == p.network }
		if i := slices.IndexFunc(ports, same); i < 0 {
			ports = append(ports, p)
		} else if p.raw {
			ports[i].raw = true
		}
	}
	for _, p := range spec.Ports {
		if p.Protocol != "sctp" {
			add(taskPort{target: p.Target, network: cmp.Or(p.Protocol, "tcp")})
		}
	}
	for _, p := range spec.Expose {
		add(taskPort{target: p, network: "tcp"})
	}
	for _, keys := range labels.Merge(prefixes, spec.Name, spec.Labels).Routes {
		n, err := strconv.ParseUint(strings.TrimSpace(keys["port"].Text), 10, 16)
		if err != nil {
			continue // not set, or a bad value, of which translate tells the author
		}
		if keys["udp_port"].Text != "" {
			add(taskPort{target: uint32(n), network: "udp"})
		} else {
			add(taskPort{target: uint32(n), network: "tcp", raw: keys["tcp_port"].Text != ""})
		}
	}
	for _, p := range further {
		add(taskPort{target: p, network: "tcp"})
	}
	slices.SortFunc(ports, func(a, b taskPort) int {
		return cmp.Or(cmp.Compare(a.target, b.target), cmp.Compare(a.network, b.network))
	})
	return ports
}
