// Package jobs makes the courier's jobs in a Swarm, by the Engine API.
//
// Of a job there are two objects, a service and the Docker secret with its order. Both
// have the job's name, and the label watcher.CourierLabel says the same name once
// more: nothing else is ever touched.
package jobs

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"

	"github.com/waggle-lb/waggle/secrets/courier"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/engine"
)

// Jobs is a courier.Swarm.
type Jobs struct {
	daemon         *engine.Daemon
	image, network string
}

// New makes jobs by a daemon (of engine.Connect), in an image that has `waggle` as its
// entry point, on a network of the Swarm.
func New(daemon *engine.Daemon, image, network string) *Jobs {
	return &Jobs{daemon: daemon, image: image, network: network}
}

// Requests are those that a socket proxy would have to let pass.
const Requests = "/info, /services, /secrets and /tasks, and POST and DELETE of services and secrets"

// Start makes the secret with the order, and the service.
func (s *Jobs) Start(ctx context.Context, j courier.Job) error {
	var order string
	err := s.do(ctx, "/secrets/create", func(ctx context.Context, cli *client.Client) error {
		made, err := cli.SecretCreate(ctx, swarm.SecretSpec{Annotations: annotations(j.Name), Data: j.Order.Reveal()})
		order = made.ID
		return err
	})
	if err != nil {
		return err
	}
	where := "node.role==manager" // these have all secrets already
	err = s.do(ctx, "/info", func(ctx context.Context, cli *client.Client) error {
		info, err := cli.Info(ctx)
		if info.Swarm.NodeID != "" {
			// The control plane's own: it has the image and is on the network, and no
			// other machine gets to see the secret.
			where = "node.id==" + info.Swarm.NodeID
		}
		if cerrdefs.IsPermissionDenied(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	return s.do(ctx, "/services/create", func(ctx context.Context, cli *client.Client) error {
		_, err := cli.ServiceCreate(ctx, s.spec(j, order, where), swarm.ServiceCreateOptions{})
		return err
	})
}

// nobody is whom the job runs as, whatever its image says.
const nobody = "65532"

// spec is the service: it runs once, as nobody, with nothing that it does not need. Its
// secrets and its network are all that it has.
func (s *Jobs) spec(j courier.Job, order, where string) swarm.ServiceSpec {
	file := func(id, name, as string) *swarm.SecretReference {
		return &swarm.SecretReference{SecretID: id, SecretName: name, File: &swarm.SecretReferenceFileTarget{Name: as, UID: nobody, GID: nobody, Mode: 0o400}}
	}
	mounts := []*swarm.SecretReference{file(order, j.Name, courier.OrderFile)}
	for _, m := range j.Mounts {
		mounts = append(mounts, file(m.ID, m.Name, m.ID))
	}
	return swarm.ServiceSpec{
		Annotations: annotations(j.Name),
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{
				Image: s.image, Args: []string{"courier"}, User: nobody + ":" + nobody,
				ReadOnly: true, CapabilityDrop: []string{"ALL"}, Privileges: &swarm.Privileges{NoNewPrivileges: true},
				StopGracePeriod: new(time.Second), Healthcheck: &container.HealthConfig{Test: []string{"NONE"}}, Secrets: mounts,
			},
			Resources:     &swarm.ResourceRequirements{Limits: &swarm.Limit{MemoryBytes: 128 << 20, Pids: 64}},
			RestartPolicy: &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionNone},
			Placement:     &swarm.Placement{Constraints: []string{where}},
			Networks:      []swarm.NetworkAttachmentConfig{{Target: s.network}},
		},
		Mode:         swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: new(uint64(1)), TotalCompletions: new(uint64(1))}},
		EndpointSpec: &swarm.EndpointSpec{Mode: swarm.ResolutionModeDNSRR}, // no virtual address: nobody asks it anything
	}
}

func annotations(name string) swarm.Annotations {
	return swarm.Annotations{Name: name, Labels: map[string]string{watcher.CourierLabel: name}}
}

// ours reports whether an object has the shape of those that Start makes.
func ours(a swarm.Annotations) bool {
	return strings.HasPrefix(a.Name, courier.NamePrefix) && a.Labels[watcher.CourierLabel] == a.Name
}

// Look looks at the job's task.
func (s *Jobs) Look(ctx context.Context, name string) (over bool, said string) {
	var tasks []swarm.Task
	err := s.do(ctx, "/tasks", func(ctx context.Context, cli *client.Client) (err error) {
		tasks, err = cli.TaskList(ctx, swarm.TaskListOptions{Filters: filters.NewArgs(filters.Arg("service", name))})
		return err
	})
	if err != nil {
		return false, "" // perhaps the next look succeeds
	}
	for _, t := range tasks {
		said = strings.Join(strings.Fields(t.Status.Err), " ")
		switch t.Status.State {
		case swarm.TaskStateComplete:
			return true, said
		case swarm.TaskStateFailed, swarm.TaskStateRejected, swarm.TaskStateShutdown, swarm.TaskStateOrphaned:
			return true, cmp.Or(said, string(t.Status.State))
		}
	}
	return false, said
}

// found are the objects of jobs.
type found struct{ services, secrets []object }

type object struct {
	id, name string
	made     time.Time
}

// list finds the objects of the job with a name, or of all jobs ("").
func (s *Jobs) list(ctx context.Context, name string) (found, error) {
	label := watcher.CourierLabel
	if name != "" {
		label += "=" + name
	}
	with := filters.NewArgs(filters.Arg("label", label))
	var f found
	keep := func(into *[]object, id string, a swarm.Annotations, m swarm.Meta) {
		if ours(a) && (name == "" || a.Name == name) {
			*into = append(*into, object{id, a.Name, m.CreatedAt})
		}
	}
	err := s.do(ctx, "/services", func(ctx context.Context, cli *client.Client) error {
		list, err := cli.ServiceList(ctx, swarm.ServiceListOptions{Filters: with})
		for _, v := range list {
			if v.Spec.Mode.ReplicatedJob != nil {
				keep(&f.services, v.ID, v.Spec.Annotations, v.Meta)
			}
		}
		return err
	})
	if err != nil {
		return found{}, err
	}
	err = s.do(ctx, "/secrets", func(ctx context.Context, cli *client.Client) error {
		list, err := cli.SecretList(ctx, swarm.SecretListOptions{Filters: with})
		for _, v := range list {
			keep(&f.secrets, v.ID, v.Spec.Annotations, v.Meta)
		}
		return err
	})
	return f, err
}

// Remove takes away the service and then the secret, which Swarm keeps for as long as
// the service has it.
func (s *Jobs) Remove(ctx context.Context, name string) error {
	f, err := s.list(ctx, name)
	if err != nil {
		return err
	}
	remove := func(what string, all []object, one func(ctx context.Context, cli *client.Client, id string) error) error {
		for _, o := range all {
			err := s.do(ctx, what+o.id, func(ctx context.Context, cli *client.Client) error {
				if err := one(ctx, cli, o.id); !cerrdefs.IsNotFound(err) {
					return err
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	err = remove("/services/", f.services, func(ctx context.Context, cli *client.Client, id string) error { return cli.ServiceRemove(ctx, id) })
	if err != nil {
		return err
	}
	return remove("/secrets/", f.secrets, func(ctx context.Context, cli *client.Client, id string) error { return cli.SecretRemove(ctx, id) })
}

// Leftovers lists the jobs of which something is that old.
func (s *Jobs) Leftovers(ctx context.Context, age time.Duration) ([]string, error) {
	f, err := s.list(ctx, "")
	var names []string
	for _, o := range slices.Concat(f.services, f.secrets) {
		if time.Since(o.made) >= age && !slices.Contains(names, o.name) {
			names = append(names, o.name)
		}
	}
	return names, err
}

// do runs a request; what a socket proxy refuses is said with the way out.
func (s *Jobs) do(ctx context.Context, what string, f func(context.Context, *client.Client) error) error {
	err := s.daemon.Do(ctx, what, f)
	if cerrdefs.IsPermissionDenied(err) {
		return fmt.Errorf("Docker forbids %s; the courier needs the Docker socket itself, or a socket proxy that lets %s pass", what, Requests)
	}
	return err
}
