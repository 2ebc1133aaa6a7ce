package fakedocker

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/swarm"
)

// writes is a daemon that lets services and secrets be made and removed.
type writes struct {
	job  func(ctx context.Context, spec swarm.ServiceSpec, mounted map[string][]byte) error
	data map[string][]byte             // of secrets, by ID
	stop map[string]context.CancelFunc // of jobs that run, by ID
	runs sync.WaitGroup
	made []swarm.ServiceSpec
}

// Write lets services and secrets be made and removed, until the test ends. Each job
// is run once, with the content of the secrets that are mounted into it, by the name
// of their file; its task is complete or, after an error, has failed with its text.
// The job's context ends when the service is removed.
func (d *Daemon) Write(job func(ctx context.Context, spec swarm.ServiceSpec, mounted map[string][]byte) error) {
	w := &writes{job: job, data: map[string][]byte{}, stop: map[string]context.CancelFunc{}}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes = w
	d.t.Cleanup(func() {
		d.mu.Lock()
		for _, stop := range w.stop {
			stop()
		}
		d.mu.Unlock()
		w.runs.Wait()
	})
}

// Made lists the services that were made by requests, oldest first.
func (d *Daemon) Made() []swarm.ServiceSpec {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.writes.made)
}

// Left names the services and secrets that there are with a label.
func (d *Daemon) Left(label string) (names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.services {
		if _, ok := s.Spec.Labels[label]; ok {
			names = append(names, "service "+s.Spec.Name)
		}
	}
	for _, s := range d.secrets {
		if _, ok := s.Spec.Labels[label]; ok {
			names = append(names, "secret "+s.Spec.Name)
		}
	}
	slices.Sort(names)
	return names
}

// PutSecretWith creates a secret with labels and, for jobs, content, or replaces it, and sends the event.
func (d *Daemon) PutSecretWith(id, name string, labels map[string]string, data []byte, created time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.secrets[id] = swarm.Secret{ID: id, Meta: d.meta(created), Spec: swarm.SecretSpec{Annotations: swarm.Annotations{Name: name, Labels: labels}}}
	if d.writes != nil {
		d.writes.data[id] = data
	}
	d.emit(events.SecretEventType, events.ActionCreate, id, name)
}

// write answers a request that changes something; false where it does not.
func (d *Daemon) write(w http.ResponseWriter, r *http.Request, path string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.writes == nil || r.Method != http.MethodPost && r.Method != http.MethodDelete {
		return false
	}
	kind, id, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch {
	case r.Method == http.MethodPost && path == "/secrets/create":
		var spec swarm.SecretSpec
		if err := json.NewDecoder(r.Body).Decode(&spec); err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return true
		}
		id := fmt.Sprintf("secret%d", d.clock)
		d.writes.data[id], spec.Data = spec.Data, nil
		d.secrets[id] = swarm.Secret{ID: id, Meta: d.now(), Spec: spec}
		d.emit(events.SecretEventType, events.ActionCreate, id, spec.Name)
		created(w, id)
	case r.Method == http.MethodPost && path == "/services/create":
		var spec swarm.ServiceSpec
		if err := json.NewDecoder(r.Body).Decode(&spec); err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return true
		}
		mounted := map[string][]byte{}
		for _, s := range spec.TaskTemplate.ContainerSpec.Secrets {
			if have, ok := d.secrets[s.SecretID]; !ok || have.Spec.Name != s.SecretName {
				fail(w, http.StatusBadRequest, "rpc error: code = InvalidArgument desc = secret not found: "+s.SecretName)
				return true
			}
			mounted[s.File.Name] = d.writes.data[s.SecretID]
		}
		id := fmt.Sprintf("service%d", d.clock)
		d.services[id] = swarm.Service{ID: id, Meta: d.now(), Spec: spec}
		d.writes.made = append(d.writes.made, spec)
		d.emit(events.ServiceEventType, events.ActionCreate, id, spec.Name)
		created(w, id)
		if spec.Mode.ReplicatedJob != nil {
			d.start(id, spec, mounted)
		}
	case r.Method == http.MethodDelete && kind == "services" && d.services[id].ID != "":
		name := d.services[id].Spec.Name
		delete(d.services, id)
		for task, t := range d.tasks {
			if t.ServiceID == id {
				delete(d.tasks, task)
			}
		}
		if stop := d.writes.stop[id]; stop != nil {
			stop()
		}
		d.emit(events.ServiceEventType, events.ActionRemove, id, name)
		w.WriteHeader(http.StatusOK)
	case r.Method == http.MethodDelete && kind == "secrets" && d.secrets[id].ID != "":
		for _, s := range d.services {
			if slices.ContainsFunc(s.Spec.TaskTemplate.ContainerSpec.Secrets, func(r *swarm.SecretReference) bool { return r.SecretID == id }) {
				fail(w, http.StatusBadRequest, "rpc error: code = InvalidArgument desc = secret is in use by the following service: "+s.Spec.Name)
				return true
			}
		}
		name := d.secrets[id].Spec.Name
		delete(d.secrets, id)
		delete(d.writes.data, id)
		d.emit(events.SecretEventType, events.ActionRemove, id, name)
		w.WriteHeader(http.StatusNoContent)
	default:
		fail(w, http.StatusNotFound, "no such object: "+path)
	}
	return true
}

// now is meta of something that is made now; d.mu is held.
func (d *Daemon) now() swarm.Meta { return d.meta(time.Now().UTC()) }

func created(w http.ResponseWriter, id string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(map[string]string{"ID": id})
}

// start runs a job; d.mu is held.
func (d *Daemon) start(id string, spec swarm.ServiceSpec, mounted map[string][]byte) {
	ctx, stop := context.WithCancel(context.Background())
	d.writes.stop[id] = stop
	task := swarm.Task{ID: "task" + id, ServiceID: id, NodeID: "n1", Meta: d.now(), DesiredState: swarm.TaskStateComplete, Status: swarm.TaskStatus{State: swarm.TaskStateRunning}}
	d.tasks[task.ID] = task
	w := d.writes
	w.runs.Go(func() {
		defer stop()
		err := w.job(ctx, spec, mounted)
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(w.stop, id)
		if _, there := d.tasks[task.ID]; !there {
			return
		}
		if task.Status.State = swarm.TaskStateComplete; err != nil {
			task.Status.State, task.Status.Err = swarm.TaskStateFailed, err.Error()
		}
		d.tasks[task.ID] = task
	})
}
