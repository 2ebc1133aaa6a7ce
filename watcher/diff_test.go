package watcher

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func picture() *Picture {
	return &Picture{
		Services: map[string]*Service{"a": {ID: "a", Name: "a", Labels: map[string]string{"k": "v"}}, "b": {ID: "b", Name: "b"}},
		Tasks: map[string][]*Task{"a": {
			{ID: "a1", ServiceID: "a", Slot: 1, State: Running, Desired: Running},
			{ID: "a2", ServiceID: "a", Slot: 2, State: Running, Desired: Running},
		}},
		Nodes:    map[string]*Node{"n": {ID: "n", Hostname: "n"}},
		Networks: map[string]*Network{"x": {ID: "x", Name: "x"}},
		Configs:  map[string]*Config{"c": {ID: "c", Name: "c", Data: []byte("d")}},
		Secrets:  map[string]*Secret{"s": {ID: "s", Name: "s"}},
	}
}

func set(ids ...string) map[string]struct{} {
	m := map[string]struct{}{}
	for _, id := range ids {
		m[id] = struct{}{}
	}
	return m
}

func TestDiffAndShareSayWhatChanged(t *testing.T) {
	tests := []struct {
		name   string
		change func(p *Picture)
		want   Changes
	}{
		{"nothing", func(p *Picture) {}, Changes{}},
		{"a label", func(p *Picture) { p.Services["a"].Labels["k"] = "w" }, Changes{Services: set("a")}},
		{"a service gone", func(p *Picture) { delete(p.Services, "b") }, Changes{Services: set("b")}},
		{"a service and its tasks gone", func(p *Picture) { delete(p.Services, "a"); delete(p.Tasks, "a") }, Changes{Services: set("a"), Tasks: set("a")}},
		{"a new service", func(p *Picture) { p.Services["c"] = &Service{ID: "c"} }, Changes{Services: set("c")}},
		{"one service for another", func(p *Picture) { delete(p.Services, "a"); p.Services["c"] = &Service{ID: "c"} }, Changes{Services: set("a", "c")}},
		{"a task leaves", func(p *Picture) { p.Tasks["a"][1].Desired = Shutdown }, Changes{Tasks: set("a")}},
		{"the first task gone", func(p *Picture) { p.Tasks["a"] = p.Tasks["a"][1:] }, Changes{Tasks: set("a")}},
		{"the first task of a service", func(p *Picture) { p.Tasks["b"] = []*Task{{ID: "b1"}} }, Changes{Tasks: set("b")}},
		{"no tasks said in another way", func(p *Picture) { p.Tasks["b"] = nil }, Changes{}},
		{"a node down", func(p *Picture) { p.Nodes["n"].Down = true }, Changes{Nodes: true}},
		{"a network gone", func(p *Picture) { delete(p.Networks, "x") }, Changes{Shared: true}},
		{"a config's data", func(p *Picture) { p.Configs["c"].Data = []byte("e") }, Changes{Shared: true}},
		{"a new secret", func(p *Picture) { p.Secrets["t"] = &Secret{ID: "t"} }, Changes{Shared: true}},
		{"another kind of source", func(p *Picture) { p.Static = true }, Changes{All: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			old, next := picture(), picture()
			tt.change(next)
			require.Equal(t, tt.want, Diff(old, next))

			shared, changes := Share(old, next)
			require.Equal(t, tt.want, changes)
			want := picture()
			tt.change(want)
			require.Equal(t, picture(), old, "the old picture stays as it was")
			if changes.Empty() {
				require.Same(t, old, shared)
				return
			}
			require.Equal(t, want, shared)
			require.Equal(t, tt.want, Diff(old, shared))
		})
	}
}

func TestDiffOfTheFirstPictureIsEverything(t *testing.T) {
	p, c := Share(nil, picture())
	require.Equal(t, Changes{All: true}, c)
	require.Equal(t, picture(), p)
	require.Equal(t, Changes{All: true}, Diff(nil, p))
	require.True(t, Diff(p, p).Empty())
}

func TestShareKeepsTheObjectsThatDidNotChange(t *testing.T) {
	old, next := picture(), picture()
	next.Tasks["a"][0].State = Failed
	next.Services["b"].Version = 2
	p, _ := Share(old, next)
	require.Same(t, old.Services["a"], p.Services["a"])
	require.NotSame(t, old.Services["b"], p.Services["b"])
	require.NotSame(t, old.Tasks["a"][0], p.Tasks["a"][0])
	require.Same(t, old.Tasks["a"][1], p.Tasks["a"][1])
	require.True(t, sameMap(old.Nodes, p.Nodes))
	require.True(t, sameMap(old.Configs, p.Configs))
}

// A field that the comparison forgets would be a change that never reaches a
// proxy: every field of every object is changed here once.
func TestEveryFieldCounts(t *testing.T) {
	everyField(t, equalServices)
	everyField(t, equalTasks)
	everyField(t, equalNodes)
	everyField(t, equalNetworks)
	everyField(t, equalConfigs)
	everyField(t, equalSecrets)
}

func everyField[T any](t *testing.T, equal func(a, b *T) bool) {
	typ := reflect.TypeFor[T]()
	for i := range typ.NumField() {
		a, b := new(T), new(T)
		require.True(t, equal(a, b))
		set := reflect.ValueOf(b).Elem().Field(i)
		set.Set(reflect.ValueOf(other(t, set.Interface())).Convert(set.Type()))
		require.Falsef(t, equal(a, b), "%s.%s is not compared", typ.Name(), typ.Field(i).Name)
		require.Falsef(t, equal(b, a), "%s.%s is not compared", typ.Name(), typ.Field(i).Name)
	}
}

// other gives a value that differs from the zero value of its type.
func other(t *testing.T, zero any) any {
	switch zero.(type) {
	case string, Mode:
		return "x"
	case bool:
		return true
	case int, uint64, TaskState:
		return 1
	case time.Time:
		return time.Unix(1, 0)
	case netip.Addr:
		return netip.MustParseAddr("10.0.0.1")
	case map[string]string:
		return map[string]string{"k": "v"}
	case []string:
		return []string{"x"}
	case []byte:
		return []byte("x")
	case []uint32:
		return []uint32{1}
	case []Port:
		return []Port{{Target: 80}}
	case []VIP:
		return []VIP{{Network: "x"}}
	case []Address:
		return []Address{{Network: "x"}}
	case []HostPort:
		return []HostPort{{Target: 80}}
	}
	require.FailNow(t, fmt.Sprintf("a new kind of field: %T", zero))
	return nil
}

func BenchmarkShareOneTaskOfMany(b *testing.B) {
	old := &Picture{Services: map[string]*Service{}, Tasks: map[string][]*Task{}}
	for i := range 10_000 {
		id := fmt.Sprint(i)
		old.Services[id] = &Service{ID: id}
		old.Tasks[id] = []*Task{{ID: id, ServiceID: id, State: Running, Desired: Running}}
	}
	for b.Loop() {
		next := *old
		next.Tasks = make(map[string][]*Task, len(old.Tasks))
		for id, ts := range old.Tasks {
			next.Tasks[id] = ts
		}
		next.Tasks["7"] = []*Task{{ID: "7", ServiceID: "7", State: Running, Desired: Shutdown}}
		if _, c := Share(old, &next); len(c.Tasks) != 1 {
			b.Fatal(c)
		}
	}
}
