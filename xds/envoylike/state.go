package envoylike

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waggle-lb/waggle/translate"
)

// Counts is what a client has been sent since it was made.
type Counts struct {
	Messages  int
	Resources [translate.NumKinds]int
	Removed   [translate.NumKinds]int
	NACKs     int // that it sent
	Streams   int
}

// Sum is the number of resources of all kinds.
func (c Counts) Sum() (n int) {
	for _, r := range c.Resources {
		n += r
	}
	return n
}

// Node is the client's node ID.
func (c *Client) Node() string { return c.opts.Node }

// Connected says whether a stream is open.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connected
}

// State is what the client has, by kind and name: the versions. Only what it uses: the
// endpoints of its clusters, the route tables of its listeners.
func (c *Client) State() map[translate.Kind]map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[translate.Kind]map[string]string)
	for i := range c.kinds {
		versions := make(map[string]string, len(c.kinds[i].have))
		for name, r := range c.kinds[i].have {
			versions[name] = r.GetVersion()
		}
		out[translate.Kind(i)] = versions
	}
	return out
}

// Resource is one resource that the client has; nil if it has none of that name.
func (c *Client) Resource(kind translate.Kind, name string) *anypb.Any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kinds[kind].have[name].GetResource()
}

// Counts is what the client has been sent.
func (c *Client) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Counts{Messages: c.messages, Resources: c.received, Removed: c.removals, NACKs: c.nacks, Streams: c.streams}
}

// Faults is what was wrong at any moment: a route to a cluster that was not there, a
// listener whose route table was taken, and so on. Empty is good.
func (c *Client) Faults() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.faults)
}

// Active says that listeners and clusters have come on this stream, that every listener
// has its route tables and secrets and every cluster its endpoints.
func (c *Client) Active() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.active()
}

func (c *Client) active() bool {
	if !c.connected || !c.live || !c.kinds[translate.Listener].heard {
		return false
	}
	for _, cl := range c.clusters {
		if !cl.warm {
			return false
		}
	}
	for kind, names := range c.used() {
		for name := range names {
			if c.kinds[kind].have[name] == nil {
				return false
			}
		}
	}
	return true
}

// Waiting tells what the client waits for, for messages of failed tests.
func (c *Client) Waiting() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var cold []string
	for name, cl := range c.clusters {
		if !cl.warm {
			cold = append(cold, name)
		}
	}
	slices.Sort(cold)
	missing := map[string][]string{}
	for kind, names := range c.used() {
		for name := range names {
			if c.kinds[kind].have[name] == nil {
				missing[translate.Kind(kind).String()] = append(missing[translate.Kind(kind).String()], name)
			}
		}
	}
	return fmt.Sprintf("connected %v, live %v, cold clusters %v, missing %v, acknowledgements held %d",
		c.connected, c.live, cold, missing, len(c.heldACKs))
}

// Matches says whether the client has exactly what is served: all clusters and listeners,
// and of the rest all that it asks for.
func (c *Client) Matches(served map[translate.Kind]map[string]string) error {
	state := c.State()
	for kind, want := range served {
		have := state[kind]
		c.mu.Lock()
		asked := maps.Clone(c.kinds[kind].asked)
		c.mu.Unlock()
		whole := kind == translate.Cluster || kind == translate.Listener
		for name, version := range want {
			if _, named := asked[name]; !whole && !named {
				continue
			}
			if have[name] != version {
				return fmt.Errorf("%s %q: has version %q, served is %q", kind, name, have[name], version)
			}
		}
		for name := range have {
			if _, ok := want[name]; !ok {
				return fmt.Errorf("%s %q is not served any more", kind, name)
			}
		}
	}
	return nil
}

// Wait returns when the condition, which is looked at after every message, holds; or the
// context's error.
func (c *Client) Wait(ctx context.Context, condition func() bool) error {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if condition() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
