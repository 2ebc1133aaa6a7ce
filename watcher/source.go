package watcher

import (
	"context"
	"time"
)

// Source is one way to learn what runs.
type Source interface {
	// Name says which source is in use ("engine", "stackfile", "lab"), for status.
	Name() string

	// Run tells what runs through emit until ctx ends, and then returns nil. It
	// retries by itself, with back-off, for as long as an error may pass; an error
	// that cannot pass (a malformed address, an unreadable file given at start) is
	// returned at once. emit is never called concurrently and never after Run returned.
	Run(ctx context.Context, emit func(Update)) error
}

// Update is one step of a source: a new picture, or the news that there is none.
type Update struct {
	// Picture is the complete picture after this step, put together from complete
	// lists alone. It is nil as long as not every list has succeeded once. Where Err
	// is set, what could not be read is in it as it was read last.
	Picture *Picture

	// Changes is what differs from the picture of the update before; everything
	// differs in the first one.
	Changes Changes

	// Full marks a picture read by a complete list of everything (not a partial
	// refresh): a second one of these confirms that a picture really shrank.
	Full bool

	// Err says what the source cannot read and why; nil when the picture is fresh.
	Err error

	// At is when the picture was known to be right (the time of the last success).
	At time.Time

	// Via says where the tasks in Picture come from, all of them: ViaSwarmKit or
	// ViaEngine; "" of a source that has one place only, or no picture yet.
	Via string

	// Fallback says why tasks do not come by push although they may; nil while they
	// do, and where nobody asked for push. It is no error of the picture.
	Fallback error
}

// Where a source with more than one place to take tasks from takes them.
const (
	ViaSwarmKit = "swarmkit" // pushed, by the manager's control socket
	ViaEngine   = "engine"   // listed, by the Engine API
)

// TaskUpdate is one step of what tells tasks alone.
type TaskUpdate struct {
	// Tasks are all tasks that matter (Task.Matters), as Picture.Tasks has them. The
	// map is the receiver's; the lists in it are never changed by the sender.
	Tasks map[string][]*Task

	// Listed is set where a complete list agrees with Tasks, and not events alone.
	Listed bool

	// Confirmed is the number of the newest question whether Tasks are right that
	// Listed answers: the list was asked for after the question came.
	Confirmed uint64
}

// Changes says what differs between two pictures, by what depends on it.
type Changes struct {
	// All is set where nothing is known about the difference.
	All bool
	// Services holds the IDs of services that are new, gone or changed in anything but their tasks.
	Services map[string]struct{}
	// Tasks holds the IDs of services whose tasks changed.
	Tasks map[string]struct{}
	// Nodes is set where a node is new, gone or changed (address, state, labels).
	Nodes bool
	// Shared is set where a network, config or secret is new, gone or changed.
	Shared bool
}

// Structure reports whether more than tasks changed.
func (c Changes) Structure() bool {
	return c.All || c.Nodes || c.Shared || len(c.Services) > 0
}

// Empty reports whether nothing changed.
func (c Changes) Empty() bool { return !c.Structure() && len(c.Tasks) == 0 }

// Merge adds the changes of d to c.
func (c *Changes) Merge(d Changes) {
	c.All = c.All || d.All
	c.Nodes = c.Nodes || d.Nodes
	c.Shared = c.Shared || d.Shared
	mergeSet(&c.Services, d.Services)
	mergeSet(&c.Tasks, d.Tasks)
}

func mergeSet(into *map[string]struct{}, from map[string]struct{}) {
	if len(from) == 0 {
		return
	}
	if *into == nil {
		*into = make(map[string]struct{}, len(from))
	}
	for k := range from {
		(*into)[k] = struct{}{}
	}
}
