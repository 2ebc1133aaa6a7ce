package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/engine/fakedocker"
)

func TestWhichTasksMatter(t *testing.T) {
	for _, tt := range []struct {
		state, desired string
		more           string
		want           bool
	}{
		{"running", "running", "", true},
		{"starting", "running", "", true}, // a HEALTHCHECK has not passed yet
		{"pending", "running", "", true},
		{"preparing", "ready", "", true},
		{"running", "shutdown", "", true}, // the early warning
		{"running", "remove", "", true},
		{"failed", "running", "", false}, // before Swarm reacts
		{"rejected", "running", "", false},
		{"complete", "running", "", false},
		{"starting", "shutdown", "", false},
		{"shutdown", "shutdown", "", false},
		{"orphaned", "shutdown", "", false},
		{"shutdown", "remove", "", false},
		{"running", "running", `,"JobIteration":{"Index":3}`, false},
		{"running", "running", `,"JobIteration":null`, true},
		{"dreaming", "running", "", false},
		{"running", "dreaming", "", false},
		{"running", "running", `,"ServiceID":""`, false},
	} {
		raw := fmt.Sprintf(`{"ID":"t","ServiceID":"s","DesiredState":%q,"Status":{"State":%q}%s}`, tt.desired, tt.state, tt.more)
		task, err := parseTask([]byte(raw))
		require.NoError(t, err)
		require.Equalf(t, tt.want, task != nil, "%s", raw)
	}
}

// What did not change is not parsed again, and nothing is kept that is not listed any more.
func TestTasksThatDidNotChangeKeepTheirObject(t *testing.T) {
	r := newTaskReader(nil, Options{})
	read := func(body string) []*watcher.Task {
		parsed := map[uint64]*watcher.Task{}
		ts, err := r.decode(strings.NewReader(body), parsed)
		require.NoError(t, err)
		r.parsed = parsed
		return ts
	}
	one := read(jsonTasks(t, 3))
	require.Len(t, one, 3)
	two := read(jsonTasks(t, 3))
	require.Same(t, one[0], two[0])
	require.Same(t, one[2], two[2])
	require.Len(t, read(jsonTasks(t, 1)), 1)
	require.Len(t, r.parsed, 1)
	require.Empty(t, read("null"))
	require.Empty(t, read("[]"))
}

func TestOnlyWholeListsOfObjectsAreLists(t *testing.T) {
	one := `{"ID":"t","ServiceID":"s","DesiredState":"running","Status":{"State":"running"},"x":"}]\\\"{["}`
	for body, want := range map[string]int{
		"[]": 0, " [ ] \n": 0, "null": 0, "[" + one + "]": 1, "[ " + one + " , " + one + " ]\n": 2,
		"": -1, "[": -1, "[" + one: -1, "[" + one + ",": -1, "[" + one + ",]": -1, "[,]": -1, "[1]": -1, "[null]": -1, "{}": -1,
		"[]x": -1, "[" + one + "]]": -1, "[" + one + one + "]": -1, "[{]": -1, "[{]}]": -1, `[{"ID`: -1, `[{"ID\`: -1, "x": -1, `"x"`: -1,
	} {
		ts, err := newTaskReader(nil, Options{}).decode(strings.NewReader(body), map[uint64]*watcher.Task{})
		require.Equalf(t, want < 0, err != nil, "%s: %v", body, err)
		require.Lenf(t, ts, max(want, 0), "%s", body)
	}
}

// jsonTasks is a list as the daemon makes it.
func jsonTasks(t testing.TB, n int) string {
	var list []swarm.Task
	for i := range n {
		list = append(list, swarm.Task{
			ID: fmt.Sprintf("task%021d", i), ServiceID: fmt.Sprintf("service%d", i/4), NodeID: "n1", Slot: i%4 + 1,
			DesiredState: swarm.TaskStateRunning, Status: swarm.TaskStatus{State: swarm.TaskStateRunning, Message: "started", ContainerStatus: &swarm.ContainerStatus{ContainerID: strings.Repeat("c", 64)}},
			Spec: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{
				Image: "registry.example.com/team/app:1@sha256:" + strings.Repeat("a", 64), Env: []string{"A=b", "C=d", "E=f"},
				Labels: map[string]string{"com.docker.stack.namespace": "shop", "some.label": strings.Repeat("x", 200)},
			}},
			NetworksAttachments: []swarm.NetworkAttachment{fakedocker.On("net", fmt.Sprintf("10.%d.%d.%d/8", i>>16, i>>8&255, i&255))},
		})
	}
	b, err := json.Marshal(list)
	require.NoError(t, err)
	return string(b)
}

// A list of tasks is what it says, or an error; never a panic, never half of it.
func FuzzDecodeTasks(f *testing.F) {
	f.Add([]byte(jsonTasks(f, 3)))
	f.Add([]byte(`[{"ID":"a","ServiceID":"s","Slot":-1,"Status":{"State":"running","PortStatus":{"Ports":[{"PublishMode":"host","PublishedPort":1}]}},"DesiredState":"running","NetworksAttachments":[{"Addresses":["x","10.0.0.1/99","::1%lo/3"]}]}]`))
	f.Add([]byte(`[{"ID":`))
	f.Add([]byte(`null`))
	f.Add([]byte(`[1,{}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := newTaskReader(nil, Options{})
		parsed := map[uint64]*watcher.Task{}
		ts, err := r.decode(bytes.NewReader(body), parsed)
		if err != nil {
			return
		}
		if !json.Valid(body) {
			t.Errorf("a list that is no JSON: %q", body)
		}
		for _, task := range ts {
			if task.ID == "" || task.ServiceID == "" || !task.Matters() {
				t.Errorf("a task that should not be there: %+v", task)
			}
			for _, a := range task.Addresses {
				if !a.Addr.IsValid() || a.Addr.IsUnspecified() || a.Addr.Zone() != "" {
					t.Errorf("no address: %v", a)
				}
			}
		}
		// A second look at the same bytes finds the same, out of what is known.
		r.parsed = parsed
		again, err := r.decode(bytes.NewReader(body), map[uint64]*watcher.Task{})
		if err != nil || cmp.Diff(ts, again, cmpopts.EquateComparable(netip.Addr{})) != "" {
			t.Errorf("differs the second time: %v", err)
		}
	})
}

func BenchmarkDecode1000TasksUnchanged(b *testing.B) {
	body := jsonTasks(b, 1000)
	r := newTaskReader(nil, Options{})
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		parsed := make(map[uint64]*watcher.Task, len(r.parsed))
		if _, err := r.decode(strings.NewReader(body), parsed); err != nil {
			b.Fatal(err)
		}
		r.parsed = parsed
	}
}
