package watcher

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// What every source of tasks must say in the same way, so that a switch from one
// to another is no change.

// Matters reports whether a task belongs in a picture: it is wanted and has not
// failed, or it still runs.
func (t *Task) Matters() bool {
	return t.Desired <= Running && t.State <= Running || t.Leaving()
}

// Known reports whether a state is one of Swarm's.
func (s TaskState) Known() bool {
	switch s {
	case New, Pending, Assigned, Accepted, Preparing, ReadyToGo, Starting, Running,
		Complete, Shutdown, Failed, Rejected, Remove, Orphaned:
		return true
	}
	return false
}

// SameAs reports whether two tasks differ in nothing that a picture shows.
func (t *Task) SameAs(o *Task) bool { return t == o || equalTasks(t, o) }

// SortTasks puts a service's tasks into the order that Picture.Tasks has them in.
func SortTasks(ts []*Task) { slices.SortFunc(ts, CompareTasks) }

// CompareTasks is the order of a service's tasks: slot, node, ID.
func CompareTasks(a, b *Task) int {
	return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.NodeID, b.NodeID), cmp.Compare(a.ID, b.ID))
}

// HostNetworkName is the network that Swarm itself calls so: a node's own. Nobody can make another.
const HostNetworkName = "host"

// ParseAddress reads "10.0.1.14/24" or "10.0.1.14", as Swarm writes addresses; what
// is neither is no address, and neither is 0.0.0.0.
func ParseAddress(s string) netip.Addr {
	s, _, _ = strings.Cut(s, "/")
	a, err := netip.ParseAddr(s)
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}
