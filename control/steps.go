package control

import (
	"time"

	"github.com/waggle-lb/waggle/translate"
)

// Step is one thing that happened in the loop.
type Step struct {
	At   time.Time
	Kind StepKind
	// Structure says of a build that it could change more than endpoints.
	Structure bool
	// Changed counts, by collection, the resources that a build changed.
	Changed map[string]int
	// Err is what is wrong with the source or the newest configuration; nil: it is right (again).
	Err error
}

// StepKind says what a Step is about.
type StepKind string

// The kinds of steps.
const (
	BuildStep  StepKind = "build"  // a build was published, if only to say that nothing changed
	SourceStep StepKind = "source" // the source cannot read what runs, or can again
	ConfigStep StepKind = "config" // a new configuration is in force, or cannot be
)

// Observe has f told of every step, as it happens. It must be called before Run; f
// may be called from several goroutines, must return at once, and must not call back.
func (c *Control) Observe(f func(Step)) { c.observers = append(c.observers, f) }

func (c *Control) tell(s Step) {
	for _, f := range c.observers {
		f(s)
	}
}

// sizes counts what deltas hold, by collection.
func sizes(deltas []translate.Delta) map[string]int {
	n := make(map[string]int, len(deltas))
	for _, d := range deltas {
		n[d.Collection] += len(d.Changes)
	}
	return n
}
