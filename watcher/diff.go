package watcher

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
)

// Diff says what differs between two pictures of one source; everything does when
// there was none before. What is shared by pointer is not looked into, so that the
// difference of pictures made by Share costs one comparison of pointers per object.
func Diff(old, new *Picture) Changes {
	var c Changes
	switch {
	case old == new:
		return c
	case old == nil || new == nil, old.Static != new.Static, old.Loopback != new.Loopback:
		c.All = true
		return c
	}
	c.Services = differing(old.Services, new.Services, equalServices)
	c.Tasks = differingTasks(old.Tasks, new.Tasks)
	c.Nodes = !sameMap(old.Nodes, new.Nodes) && !maps.EqualFunc(old.Nodes, new.Nodes, equalNodes)
	c.Shared = !sameMap(old.Networks, new.Networks) && !maps.EqualFunc(old.Networks, new.Networks, equalNetworks) ||
		!sameMap(old.Configs, new.Configs) && !maps.EqualFunc(old.Configs, new.Configs, equalConfigs) ||
		!sameMap(old.Secrets, new.Secrets) && !maps.EqualFunc(old.Secrets, new.Secrets, equalSecrets)
	return c
}

// Share assembles the next picture: p with everything that equals its counterpart
// in old replaced by old's own object, whole maps where nothing in them differs,
// and old itself where nothing differs at all. It also says what differs.
//
// p is used up; neither old nor anything that old holds is changed.
func Share(old, p *Picture) (*Picture, Changes) {
	if old == nil || p == nil || old == p {
		return p, Diff(old, p)
	}
	p.Services = share(old.Services, p.Services, equalServices)
	p.Nodes = share(old.Nodes, p.Nodes, equalNodes)
	p.Networks = share(old.Networks, p.Networks, equalNetworks)
	p.Configs = share(old.Configs, p.Configs, equalConfigs)
	p.Secrets = share(old.Secrets, p.Secrets, equalSecrets)
	p.Tasks = shareTasks(old.Tasks, p.Tasks)
	c := Diff(old, p)
	if c.Empty() {
		return old, c
	}
	return p, c
}

func share[T any](old, m map[string]*T, equal func(a, b *T) bool) map[string]*T {
	if sameMap(old, m) {
		return m
	}
	same := len(old) == len(m)
	for k, v := range m {
		switch o, ok := old[k]; {
		case !ok:
			same = false
		case o == v:
		case equal(o, v):
			m[k] = o
		default:
			same = false
		}
	}
	if same {
		return old
	}
	return m
}

func shareTasks(old, m map[string][]*Task) map[string][]*Task {
	if sameMap(old, m) {
		return m
	}
	same := len(old) == len(m)
	var byID map[string]*Task
	for service, ts := range m {
		os, ok := old[service]
		if !ok {
			same = false
			continue
		}
		if sameTasks(os, ts) {
			m[service] = os
			continue
		}
		// Tasks keep their place as long as none comes or goes before them: look
		// there first, and make an index only where that does not hold.
		byID = nil
		mine := false // the list may be somebody else's too: it is copied before it is changed
		for i, t := range ts {
			var o *Task
			if i < len(os) && os[i].ID == t.ID {
				o = os[i]
			} else {
				if byID == nil {
					byID = make(map[string]*Task, len(os))
					for _, o := range os {
						byID[o.ID] = o
					}
				}
				o = byID[t.ID]
			}
			if o == nil || o == t || !equalTasks(o, t) {
				continue
			}
			if !mine {
				ts, mine = slices.Clone(ts), true
				m[service] = ts
			}
			ts[i] = o
		}
		if slices.Equal(os, ts) {
			m[service] = os
		} else {
			same = false
		}
	}
	if same {
		return old
	}
	return m
}

func differing[T any](old, new map[string]*T, equal func(a, b *T) bool) (ids map[string]struct{}) {
	if sameMap(old, new) {
		return nil
	}
	for id, n := range new {
		if o, ok := old[id]; !ok || o != n && !equal(o, n) {
			add(&ids, id)
		}
	}
	for id := range old {
		if _, ok := new[id]; !ok {
			add(&ids, id)
		}
	}
	return ids
}

func differingTasks(old, new map[string][]*Task) (ids map[string]struct{}) {
	if sameMap(old, new) {
		return nil
	}
	for id, n := range new {
		if o := old[id]; !sameTasks(o, n) && !slices.EqualFunc(o, n, func(a, b *Task) bool { return a == b || equalTasks(a, b) }) {
			add(&ids, id)
		}
	}
	for id, o := range old {
		if _, ok := new[id]; !ok && len(o) > 0 {
			add(&ids, id)
		}
	}
	return ids
}

func add(set *map[string]struct{}, id string) {
	if *set == nil {
		*set = make(map[string]struct{})
	}
	(*set)[id] = struct{}{}
}

// sameMap reports whether two maps are one and the same object.
func sameMap[M ~map[string]V, V any](a, b M) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}

// sameTasks reports whether two slices are one and the same.
func sameTasks(a, b []*Task) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func equalServices(a, b *Service) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Version == b.Version &&
		a.CreatedAt.Equal(b.CreatedAt) && a.Order == b.Order &&
		maps.Equal(a.Labels, b.Labels) && maps.Equal(a.ContainerLabels, b.ContainerLabels) &&
		slices.Equal(a.Constraints, b.Constraints) &&
		a.Mode == b.Mode && a.Replicas == b.Replicas &&
		slices.Equal(a.Networks, b.Networks) && slices.Equal(a.Ports, b.Ports) && slices.Equal(a.Expose, b.Expose) &&
		slices.Equal(a.VIPs, b.VIPs) && a.EndpointMode == b.EndpointMode && a.Plain == b.Plain
}

func equalTasks(a, b *Task) bool {
	return a.ID == b.ID && a.ServiceID == b.ServiceID && a.NodeID == b.NodeID && a.Slot == b.Slot &&
		a.State == b.State && a.Desired == b.Desired &&
		slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Ports, b.Ports) && a.HostNetwork == b.HostNetwork
}

func equalNodes(a, b *Node) bool {
	return a.ID == b.ID && a.Hostname == b.Hostname && a.Addr == b.Addr && a.Down == b.Down && maps.Equal(a.Labels, b.Labels)
}

func equalNetworks(a, b *Network) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Ingress == b.Ingress && maps.Equal(a.Labels, b.Labels)
}

func equalConfigs(a, b *Config) bool {
	return a.ID == b.ID && a.Name == b.Name && maps.Equal(a.Labels, b.Labels) && bytes.Equal(a.Data, b.Data)
}

func equalSecrets(a, b *Secret) bool {
	return a.ID == b.ID && a.Name == b.Name && a.File == b.File && a.Variable == b.Variable && maps.Equal(a.Labels, b.Labels)
}
