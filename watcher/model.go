package watcher

import (
	"net/netip"
	"time"
)

// StackLabel names the stack a service, network, config or secret belongs to.
const StackLabel = "com.docker.stack.namespace"

// CourierLabel marks what couriers make for some moments: jobs, and secrets of theirs.
// None of it is in a picture.
const CourierLabel = "waggle.courier"

// Picture is everything that runs, as one source saw it at one moment. It is
// immutable once handed on; the next picture shares what did not change.
type Picture struct {
	// Services by ID.
	Services map[string]*Service
	// Tasks by service ID, sorted by slot, node and ID. Only tasks that may matter
	// are listed: those that are wanted or still running (see Task.Ready and Task.Leaving).
	Tasks map[string][]*Task
	// Nodes by ID.
	Nodes map[string]*Node
	// Networks by ID.
	Networks map[string]*Network
	// Configs by name, with their data.
	Configs map[string]*Config
	// Secrets by name; never with data.
	Secrets map[string]*Secret

	// Static is set by sources that know services but no tasks (stack files):
	// endpoints are then drawn from 192.0.2.0/24 by slot.
	Static bool
	// Loopback is set by the lab's source alone: its tasks run on this machine, and
	// only then may an endpoint have a loopback address.
	Loopback bool
}

// Service is a Swarm service (or what a stack file says of one).
type Service struct {
	ID   string
	Name string // full name, "<stack>_<service>" in a stack
	// Version grows with each change of the service's specification (Meta.Version.Index).
	Version uint64
	// CreatedAt, then Order, then ID give a service's age. Order is the place in
	// the files for sources that know no time, else 0.
	CreatedAt time.Time
	Order     int

	Labels          map[string]string // the service's own labels (deploy.labels)
	ContainerLabels map[string]string // labels of its containers (labels outside deploy)
	Constraints     []string          // placement constraints as written

	Mode     Mode
	Replicas uint64 // desired tasks; of a global service the number of nodes it should run on, as far as known

	Networks     []string // IDs of the networks its tasks are attached to
	Ports        []Port   // published ports
	Expose       []uint32 // ports of "expose", where a source can see them
	VIPs         []VIP    // none under endpoint_mode dnsrr
	EndpointMode string   // "vip" or "dnsrr"

	// Plain is set for containers of a plain Docker (Compose): their own labels are
	// the service's, and there is no Swarm in which anything could be done.
	Plain bool
}

// Stack is the stack the service belongs to, "" if none.
func (s *Service) Stack() string { return s.Labels[StackLabel] }

// Older reports whether s was there before t: by creation time, then order in the files, then ID.
func (s *Service) Older(t *Service) bool {
	if !s.CreatedAt.Equal(t.CreatedAt) {
		return s.CreatedAt.Before(t.CreatedAt)
	}
	if s.Order != t.Order {
		return s.Order < t.Order
	}
	return s.ID < t.ID
}

// Mode is how Swarm schedules a service.
type Mode string

// The modes. Tasks of jobs are never endpoints.
const (
	Replicated    Mode = "replicated"
	Global        Mode = "global"
	ReplicatedJob Mode = "replicated-job"
	GlobalJob     Mode = "global-job"
)

// Job reports whether the service runs to completion instead of serving.
func (m Mode) Job() bool { return m == ReplicatedJob || m == GlobalJob }

// Port is a published port of a service. Published is 0 where Swarm chooses it.
type Port struct {
	Protocol  string // "tcp", "udp" or "sctp"
	Target    uint32
	Published uint32
	HostMode  bool // publish mode host; else ingress
}

// VIP is a service's virtual address on one network.
type VIP struct {
	Network string // ID
	Addr    netip.Addr
}

// Task is one container that Swarm runs, or wants to.
type Task struct {
	ID, ServiceID, NodeID string
	Slot                  int // from 1; 0 in a global service
	State, Desired        TaskState

	Addresses   []Address  // one per network attachment, ingress included
	Ports       []HostPort // really published on its node
	HostNetwork bool       // attached to the node's own network
}

// Ready reports whether the task is an endpoint: it runs and is wanted
// (swarm.md §3: the state says RUNNING only when a HEALTHCHECK has passed).
func (t *Task) Ready() bool { return t.State == Running && t.Desired == Running }

// Leaving reports whether the task still runs although Swarm wants it gone: for 2–3 s it still answers.
func (t *Task) Leaving() bool { return t.State == Running && t.Desired > Running }

// TaskState is Swarm's task state; it only ever grows (swarmkit api/types.proto).
type TaskState int

// Swarm's states, with swarmkit's numbers.
const (
	New       TaskState = 0
	Pending   TaskState = 64
	Assigned  TaskState = 192
	Accepted  TaskState = 256
	Preparing TaskState = 320
	ReadyToGo TaskState = 384 // Swarm's READY
	Starting  TaskState = 448
	Running   TaskState = 512
	Complete  TaskState = 576
	Shutdown  TaskState = 640
	Failed    TaskState = 704
	Rejected  TaskState = 768
	Remove    TaskState = 800
	Orphaned  TaskState = 832
)

// Address is a task's address on one network.
type Address struct {
	Network string // ID
	Addr    netip.Addr
}

// HostPort is a port that a task really has on its node.
type HostPort struct {
	Protocol          string
	Target, Published uint32
}

// Node is a member of the Swarm.
type Node struct {
	ID, Hostname string
	Addr         netip.Addr // where its host-published ports are; invalid if Swarm knows none that can be reached
	Down         bool       // Swarm has lost it: its tasks are used only when no other is left
	Labels       map[string]string
}

// Network is a Swarm network.
type Network struct {
	ID, Name string
	Ingress  bool // the routing mesh: never an address for endpoints
	Labels   map[string]string
}

// Config is a Docker config, with its data.
type Config struct {
	ID, Name string
	Labels   map[string]string
	Data     []byte
}

// Secret is a Docker secret: its name, never its data.
type Secret struct {
	ID, Name string
	Labels   map[string]string
	// File is where a stack file says that the content is, or Variable the environment
	// variable of this process; "" in a Swarm.
	File, Variable string
}
