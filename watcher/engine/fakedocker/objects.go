package fakedocker

import (
	"fmt"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
)

// meta counts Swarm's version up; d.mu is held.
func (d *Daemon) meta(created time.Time) swarm.Meta {
	d.clock++
	if created.IsZero() {
		created = time.Date(2024, 5, 1, 12, 0, int(d.clock), 0, time.UTC)
	}
	return swarm.Meta{Version: swarm.Version{Index: d.clock}, CreatedAt: created, UpdatedAt: time.Now().UTC()}
}

func action(isNew bool) events.Action {
	if isNew {
		return events.ActionCreate
	}
	return events.ActionUpdate
}

// PutService creates a service or changes it, and sends the event. It is called
// id too, has two replicas and no network, unless change says otherwise.
func (d *Daemon) PutService(id string, change func(*swarm.Service)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, there := d.services[id]
	if !there {
		two := uint64(2)
		s = swarm.Service{ID: id, Spec: swarm.ServiceSpec{
			Annotations:  swarm.Annotations{Name: id, Labels: map[string]string{}},
			Mode:         swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &two}},
			TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "example/app:1"}},
		}}
	}
	if change != nil {
		change(&s)
	}
	s.Meta = d.meta(s.CreatedAt)
	d.services[id] = s
	d.emit(events.ServiceEventType, action(!there), id, s.Spec.Name)
}

// RemoveService removes a service; its tasks are then wanted gone.
func (d *Daemon) RemoveService(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.services, id)
	for tid, t := range d.tasks {
		if t.ServiceID == id {
			t.DesiredState = swarm.TaskStateRemove
			t.Meta = d.meta(t.CreatedAt)
			d.tasks[tid] = t
		}
	}
	d.emit(events.ServiceEventType, events.ActionRemove, id, id)
}

// PutTask creates a task or changes it; Docker has no events for that. It runs, is
// wanted, in slot 1 on node n1, unless change says otherwise.
func (d *Daemon) PutTask(service, id string, change func(*swarm.Task)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, there := d.tasks[id]
	if !there {
		t = swarm.Task{
			ID: id, ServiceID: service, NodeID: "n1", Slot: 1, DesiredState: swarm.TaskStateRunning,
			Spec:   swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "example/app:1"}},
			Status: swarm.TaskStatus{State: swarm.TaskStateRunning, ContainerStatus: &swarm.ContainerStatus{ContainerID: "c" + id, PID: 42}},
		}
	}
	if change != nil {
		change(&t)
	}
	t.Meta = d.meta(t.CreatedAt)
	d.tasks[id] = t
}

// Want changes what Swarm wants of a task.
func (d *Daemon) Want(id string, s swarm.TaskState) {
	d.changeTask(id, func(t *swarm.Task) { t.DesiredState = s })
}

// Observe changes the state that a task is in.
func (d *Daemon) Observe(id string, s swarm.TaskState) {
	d.changeTask(id, func(t *swarm.Task) { t.Status.State = s })
}

func (d *Daemon) changeTask(id string, change func(*swarm.Task)) {
	d.mu.Lock()
	_, there := d.tasks[id]
	d.mu.Unlock()
	if !there {
		panic(fmt.Errorf("task %s: %w", id, errGone))
	}
	d.PutTask("", id, change)
}

// RemoveTask deletes a task.
func (d *Daemon) RemoveTask(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.tasks, id)
}

// On attaches a task to a network with an address, "10.0.1.2/24".
func On(network, address string) swarm.NetworkAttachment {
	return swarm.NetworkAttachment{
		Network:   swarm.Network{ID: network, Spec: swarm.NetworkSpec{Annotations: swarm.Annotations{Name: network}, Ingress: network == "ingress"}},
		Addresses: []string{address},
	}
}

// PutNode creates a node or changes it, and sends the event. It is ready and has
// the address 192.168.7.1, unless change says otherwise.
func (d *Daemon) PutNode(id string, change func(*swarm.Node)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, there := d.nodes[id]
	if !there {
		n = swarm.Node{
			ID: id, Description: swarm.NodeDescription{Hostname: id + ".example"},
			Spec:   swarm.NodeSpec{Role: swarm.NodeRoleManager, Availability: swarm.NodeAvailabilityActive},
			Status: swarm.NodeStatus{State: swarm.NodeStateReady, Addr: "192.168.7.1"},
		}
	}
	if change != nil {
		change(&n)
	}
	n.Meta = d.meta(n.CreatedAt)
	d.nodes[id] = n
	d.emit(events.NodeEventType, action(!there), id, n.Description.Hostname)
}

// PutNetwork creates an overlay network of the Swarm, or changes a network, and sends the event.
func (d *Daemon) PutNetwork(id string, change func(*network.Summary)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, there := d.networks[id]
	if !there {
		n = network.Summary{ID: id, Name: id, Driver: "overlay", Scope: "swarm"}
	}
	if change != nil {
		change(&n)
	}
	d.networks[id] = n
	d.emit(events.NetworkEventType, action(!there), id, n.Name)
}

// RemoveNetwork removes a network.
func (d *Daemon) RemoveNetwork(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.networks, id)
	d.emit(events.NetworkEventType, events.ActionRemove, id, id)
}

// PutConfig creates a config with its data and sends the event.
func (d *Daemon) PutConfig(id, data string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.configs[id] = swarm.Config{ID: id, Meta: d.meta(time.Time{}), Spec: swarm.ConfigSpec{Annotations: swarm.Annotations{Name: id, Labels: map[string]string{"of": id}}, Data: []byte(data)}}
	d.emit(events.ConfigEventType, events.ActionCreate, id, id)
}

// PutSecret creates a secret and sends the event. As the real one, it never tells the data.
func (d *Daemon) PutSecret(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.secrets[id] = swarm.Secret{ID: id, Meta: d.meta(time.Time{}), Spec: swarm.SecretSpec{Annotations: swarm.Annotations{Name: id, Labels: map[string]string{"of": id}}}}
	d.emit(events.SecretEventType, events.ActionCreate, id, id)
}
