package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"github.com/waggle-lb/waggle/watcher"
)

// followTasks lists tasks, as often as it is worth it. poller is the number its reports carry.
func (r *run) followTasks(ctx context.Context, poller int) {
	reader := newTaskReader(r.conn, r.Options)
	pause := r.newBackoff()
	for {
		began := time.Now()
		tasks, err := reader.list(ctx, *r.down.Load())
		if !r.tell(ctx, report{part: tasksPart, err: err, tasks: tasks, full: true, poller: poller}) {
			return
		}
		if err != nil {
			if !pause.wait(ctx) {
				return
			}
			continue
		}
		pause.reset()
		if !r.waitForPoll(ctx, began) {
			return
		}
	}
}

// waitForPoll waits until the next list is due; what makes it due earlier wakes it.
func (r *run) waitForPoll(ctx context.Context, last time.Time) bool {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait := time.Until(last.Add(r.interval()))
		if wait <= 0 {
			return ctx.Err() == nil
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
		case <-r.kick:
		}
	}
}

func (r *run) interval() time.Duration {
	switch {
	case time.Now().UnixNano() < r.fastUntil.Load():
		return r.Timing.FastPoll
	case !r.interesting.Load():
		return r.Timing.SlowPoll
	}
	return r.PollInterval
}

// taskReader lists the tasks that matter: those that are wanted, and those that
// are not but still run.
//
// Which filter does that with the least to carry? The API takes any state as
// desired-state, and several as "or" (moby daemon/cluster/filters.go, swarmkit
// manager/controlapi/task.go), but none for the state that a task is in:
//
//   - running: what is wanted. Tasks that an update or restart has made but not
//     yet released have desired state ready and cannot run before they change to running.
//   - remove: what scaling down or removing a service leaves; it is deleted as soon
//     as it has stopped, so the list is short.
//   - shutdown: what updates, failures and drained nodes leave, and all history
//     (five dead tasks for every slot): too much to carry every second.
//
// So the list asks for running and remove. A task that ran in the last list and is
// in none of them now is most likely shutdown and about to stop: those are asked for
// by ID, a short list of their own for as long as they take to stop. Only the first
// list of all asks for shutdown too, because it has no last one.
type taskReader struct {
	Options
	conn *connection

	running  map[string]*watcher.Task // tasks that ran in the last list, by ID; nil before the first
	parsed   map[uint64]*watcher.Task // tasks of the last list by the hash of their JSON; nil ones do not matter
	seed     maphash.Seed
	body     bytes.Buffer // of the answer; kept for the next one
	askedAll time.Time    // when tasks on nodes that are down were last asked for
}

func newTaskReader(c *connection, o Options) *taskReader {
	return &taskReader{Options: o, conn: c, seed: maphash.MakeSeed()}
}

// maxTaskIDs keeps the address of a request short enough for proxies.
const maxTaskIDs = 64

// list gives the tasks that matter by service, sorted. down are the nodes that
// Swarm has lost. It fails as a whole where any part of it does.
func (t *taskReader) list(ctx context.Context, down map[string]bool) (map[string][]*watcher.Task, error) {
	f := filters.NewArgs(filters.Arg("desired-state", "running"), filters.Arg("desired-state", "remove"))
	if t.running == nil {
		f.Add("desired-state", "shutdown")
	}
	parsed := make(map[uint64]*watcher.Task, len(t.parsed))
	tasks, err := t.read(ctx, f, parsed)
	if err != nil {
		return nil, err
	}
	leaving, err := t.leaving(ctx, tasks, down, parsed)
	if err != nil {
		return nil, err
	}
	tasks = append(tasks, leaving...)

	byService := map[string][]*watcher.Task{}
	running := map[string]*watcher.Task{}
	for _, task := range tasks {
		byService[task.ServiceID] = append(byService[task.ServiceID], task)
		if task.State == watcher.Running {
			running[task.ID] = task
		}
	}
	for id, ts := range byService {
		watcher.SortTasks(ts)
		byService[id] = slices.CompactFunc(ts, func(a, b *watcher.Task) bool { return a.ID == b.ID })
	}
	t.running, t.parsed = running, parsed
	return byService, nil
}

// leaving asks for the tasks that ran in the last list and are not in this one.
func (t *taskReader) leaving(ctx context.Context, listed []*watcher.Task, down map[string]bool, parsed map[uint64]*watcher.Task) (left []*watcher.Task, err error) {
	now := time.Now()
	everything := now.Sub(t.askedAll) >= t.Timing.FullList
	if everything {
		t.askedAll = now
	}
	here := make(map[string]bool, len(listed))
	for _, task := range listed {
		here[task.ID] = true
	}
	var ids []string
	for id, task := range t.running {
		switch {
		case here[id]:
		case !everything && task.Desired == watcher.Shutdown && down[task.NodeID]:
			// Nobody reports for a lost node: its tasks stay as they are for up to a day.
			left = append(left, task)
		default:
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for some := range slices.Chunk(ids, maxTaskIDs) {
		f := filters.NewArgs()
		for _, id := range some {
			f.Add("id", id)
		}
		tasks, err := t.read(ctx, f, parsed)
		if err != nil {
			return nil, err
		}
		left = append(left, tasks...)
	}
	return left, nil
}

// read makes one list.
func (t *taskReader) read(ctx context.Context, f filters.Args, parsed map[uint64]*watcher.Task) (tasks []*watcher.Task, err error) {
	err = t.conn.do(ctx, "/tasks", func(ctx context.Context, cli *client.Client) error {
		resp, err := t.conn.get(ctx, cli, "/tasks", f)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		tasks, err = t.decode(resp.Body, parsed)
		return err
	})
	return tasks, err
}

// decode reads a list of tasks and keeps those that matter. Most are byte for byte
// what they were in the last list: those are not parsed again, and keep their object.
func (t *taskReader) decode(r io.Reader, parsed map[uint64]*watcher.Task) ([]*watcher.Task, error) {
	t.body.Reset()
	if _, err := t.body.ReadFrom(r); err != nil {
		return nil, err
	}
	var tasks []*watcher.Task
	err := elements(t.body.Bytes(), func(raw []byte) error {
		hash := maphash.Bytes(t.seed, raw)
		task, ok := t.parsed[hash]
		if !ok {
			var err error
			if task, err = parseTask(raw); err != nil {
				return err
			}
		}
		parsed[hash] = task
		if task != nil {
			tasks = append(tasks, task)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return tasks, nil
}

// elements gives the objects of a JSON list one by one, without looking into them:
// whether they are JSON is for whoever parses them. Anything but a whole list of
// objects (or null, which is none) is an error.
func elements(b []byte, each func([]byte) error) error {
	i := blanks(b, 0)
	if i == len(b) {
		return io.ErrUnexpectedEOF
	}
	if b[i] != '[' {
		var v []json.RawMessage
		return json.Unmarshal(b, &v) // an error, or null
	}
	if i = blanks(b, i+1); i < len(b) && b[i] == ']' {
		return nothingAfter(b, i+1)
	}
	for i < len(b) {
		if b[i] != '{' {
			return fmt.Errorf("an entry at byte %d is no object", i)
		}
		end := object(b, i)
		if end < 0 {
			break
		}
		if err := each(b[i:end]); err != nil {
			return err
		}
		if i = blanks(b, end); i == len(b) {
			break
		}
		switch b[i] {
		case ',':
			i = blanks(b, i+1)
		case ']':
			return nothingAfter(b, i+1)
		default:
			return fmt.Errorf("no comma at byte %d", i)
		}
	}
	return io.ErrUnexpectedEOF
}

// object finds the end of the object that begins at i, -1 if there is none.
func object(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		}
	}
	return -1
}

func blanks(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

func nothingAfter(b []byte, i int) error {
	if i = blanks(b, i); i < len(b) {
		return fmt.Errorf("something follows the list at byte %d", i)
	}
	return nil
}

// apiTask is the part of Docker's swarm.Task that counts; the rest, most of it the
// specification, is skipped.
type apiTask struct {
	ID, ServiceID, NodeID string
	Slot                  int
	DesiredState          string
	JobIteration          *struct{}
	Status                struct {
		State      string
		PortStatus struct {
			Ports []struct {
				Protocol, PublishMode     string
				TargetPort, PublishedPort uint32
			}
		}
	}
	NetworksAttachments []struct {
		Network struct {
			ID   string
			Spec struct{ Name string }
		}
		Addresses []string
	}
}

var taskStates = map[string]watcher.TaskState{
	"new": watcher.New, "allocated": watcher.Pending, "pending": watcher.Pending, "assigned": watcher.Assigned,
	"accepted": watcher.Accepted, "preparing": watcher.Preparing, "ready": watcher.ReadyToGo, "starting": watcher.Starting,
	"running": watcher.Running, "complete": watcher.Complete, "shutdown": watcher.Shutdown, "failed": watcher.Failed,
	"rejected": watcher.Rejected, "remove": watcher.Remove, "orphaned": watcher.Orphaned,
}

// parseTask is a task in our words; nil if it does not matter: it belongs to a job
// or to no service, it is history, or it is in a state that nobody knows yet.
func parseTask(raw []byte) (*watcher.Task, error) {
	var v apiTask
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	if v.ID == "" {
		return nil, errNoID
	}
	state, known := taskStates[v.Status.State]
	desired, knownToo := taskStates[v.DesiredState]
	if v.ServiceID == "" || v.JobIteration != nil || !known || !knownToo {
		return nil, nil
	}
	t := &watcher.Task{ID: v.ID, ServiceID: v.ServiceID, NodeID: v.NodeID, Slot: v.Slot, State: state, Desired: desired}
	if !t.Matters() {
		return nil, nil
	}
	for _, a := range v.NetworksAttachments {
		if a.Network.Spec.Name == watcher.HostNetworkName {
			t.HostNetwork = true
			continue
		}
		for _, s := range a.Addresses {
			if addr := watcher.ParseAddress(s); addr.IsValid() {
				t.Addresses = append(t.Addresses, watcher.Address{Network: a.Network.ID, Addr: addr})
				break
			}
		}
	}
	for _, p := range v.Status.PortStatus.Ports {
		if p.PublishMode == "host" && p.PublishedPort != 0 {
			t.Ports = append(t.Ports, watcher.HostPort{Protocol: protocol(p.Protocol), Target: p.TargetPort, Published: p.PublishedPort})
		}
	}
	return t, nil
}
