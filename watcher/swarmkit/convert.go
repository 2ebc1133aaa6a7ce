package swarmkit

import (
	"strings"

	"github.com/moby/swarmkit/v2/api"

	"github.com/waggle-lb/waggle/watcher"
)

// convert is a task in our words; nil if it does not matter: it belongs to a job, to
// a plugin or to no service, it is history, it is not released yet (the Engine API's
// list leaves those out too), or it is in a state that nobody knows yet.
func convert(t *api.Task) *watcher.Task {
	state, desired := watcher.TaskState(t.Status.State), watcher.TaskState(t.DesiredState)
	if t.ID == "" || t.ServiceID == "" || t.JobIteration != nil || t.Spec.GetContainer() == nil || !state.Known() || !desired.Known() {
		return nil
	}
	task := &watcher.Task{ID: t.ID, ServiceID: t.ServiceID, NodeID: t.NodeID, Slot: int(t.Slot), State: state, Desired: desired}
	if desired < watcher.Running || !task.Matters() {
		return nil
	}
	for _, a := range t.Networks {
		if a.Network == nil {
			continue
		}
		if a.Network.Spec.Annotations.Name == watcher.HostNetworkName {
			task.HostNetwork = true
			continue
		}
		for _, s := range a.Addresses {
			if addr := watcher.ParseAddress(s); addr.IsValid() {
				task.Addresses = append(task.Addresses, watcher.Address{Network: a.Network.ID, Addr: addr})
				break
			}
		}
	}
	if t.Status.PortStatus == nil {
		return task
	}
	for _, p := range t.Status.PortStatus.Ports {
		if p.PublishMode == api.PublishModeHost && p.PublishedPort != 0 {
			task.Ports = append(task.Ports, watcher.HostPort{Protocol: strings.ToLower(p.Protocol.String()), Target: p.TargetPort, Published: p.PublishedPort})
		}
	}
	return task
}
