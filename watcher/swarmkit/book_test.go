package swarmkit

import (
	"fmt"
	"testing"

	"github.com/moby/swarmkit/v2/api"
	"github.com/stretchr/testify/require"
)

const create, update, remove = api.WatchActionKindCreate, api.WatchActionKindUpdate, api.WatchActionKindRemove

// task is one of service web that runs; desired says whether it is wanted.
func task(id string, version uint64, desired api.TaskState) *api.Task {
	return &api.Task{
		ID: id, ServiceID: "web", DesiredState: desired, Status: api.TaskStatus{State: api.TaskStateRunning},
		Spec: api.TaskSpec{Runtime: &api.TaskSpec_Container{Container: &api.ContainerSpec{}}}, Meta: api.Meta{Version: api.Version{Index: version}},
	}
}

// Which of two pieces of news counts, whatever their order.
func TestTheNewerVersionCounts(t *testing.T) {
	type event struct {
		action api.WatchActionKind
		task   *api.Task
	}
	const wanted, unwanted = api.TaskStateRunning, api.TaskStateShutdown
	failed := task("a", 6, wanted)
	failed.Status.State = api.TaskStateFailed
	for name, tt := range map[string]struct {
		events  []event
		want    []string
		version uint64
	}{
		"a newer one":                                {[]event{{update, task("a", 6, unwanted)}}, []string{"a:leaving"}, 6},
		"an older one after a newer one":             {[]event{{update, task("a", 6, unwanted)}, {update, task("a", 5, wanted)}}, []string{"a:leaving"}, 6},
		"older than the list":                        {[]event{{update, task("a", 3, unwanted)}}, []string{"a:ready"}, 4},
		"twice in one transaction":                   {[]event{{update, task("a", 6, wanted)}, {update, task("a", 6, unwanted)}}, []string{"a:leaving"}, 6},
		"a removed one":                              {[]event{{remove, task("a", 4, wanted)}}, nil, 4},
		"an older one after it was removed":          {[]event{{remove, task("a", 6, wanted)}, {update, task("a", 5, wanted)}}, nil, 6},
		"the same one after it was removed":          {[]event{{remove, task("a", 6, wanted)}, {update, task("a", 6, wanted)}}, nil, 6},
		"an older one after it failed":               {[]event{{update, failed}, {update, task("a", 5, wanted)}}, nil, 6},
		"a new one":                                  {[]event{{create, task("b", 5, wanted)}}, []string{"a:ready", "b:ready"}, 5},
		"late news of one that the list had no more": {[]event{{update, task("b", 4, unwanted)}}, []string{"a:ready"}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook()
			b.reset([]*api.Task{task("a", 4, wanted)})
			for _, e := range tt.events {
				b.message(&api.WatchMessage{Events: []*api.WatchMessage_Event{{Action: e.action, Object: &api.Object{Object: &api.Object_Task{Task: e.task}}}}})
			}
			require.Equal(t, tt.want, names(b.tasksByService()))
			require.Equal(t, tt.version, b.version().Index, "where a stream without versions is taken up")
		})
	}
}

// What was told stays as it was told.
func TestListsThatWereToldNeverChange(t *testing.T) {
	b := newBook()
	b.reset([]*api.Task{task("a", 1, api.TaskStateRunning), task("c", 1, api.TaskStateRunning)})
	told := b.tasksByService()
	b.event(update, task("a", 2, api.TaskStateShutdown))
	b.event(create, task("b", 3, api.TaskStateRunning))
	b.event(remove, task("c", 1, api.TaskStateRunning))
	require.Equal(t, []string{"a:ready", "c:ready"}, names(told))
	require.Equal(t, []string{"a:leaving", "b:ready"}, names(b.tasksByService()))
}

// Other kinds of objects are not looked at, should they ever come.
func TestOtherObjectsAreIgnored(t *testing.T) {
	b := newBook()
	b.reset(nil)
	secret := &api.Object{Object: &api.Object_Secret{Secret: &api.Secret{ID: "s", Spec: api.SecretSpec{Data: []byte("hunter2")}}}}
	require.False(t, b.message(&api.WatchMessage{Events: []*api.WatchMessage_Event{{Action: create, Object: secret}, {Action: create}, {Action: create, Object: &api.Object{}}}}))
	require.Nil(t, b.version())
}

// Memory follows what there is, not what was.
func TestNothingIsKeptOfTasksThatAreGone(t *testing.T) {
	b := newBook()
	b.reset(nil)
	for i := range 1000 {
		task := task(fmt.Sprint(i), uint64(i+1), api.TaskStateRunning)
		require.True(t, b.event(create, task))
		require.True(t, b.event(remove, task))
		if i%10 == 9 {
			b.checkBegins()
		}
	}
	require.Empty(t, b.tasks)
	require.Empty(t, b.byService)
	require.LessOrEqual(t, len(b.past)+len(b.older), 20)
}
