package control

import "time"

// Pace is how long changes are gathered after a build before the next one. The
// first change after a quiet time waits for nothing.
type Pace struct {
	// Tasks is the shortest time between two builds that change endpoints only.
	Tasks time.Duration
	// Structure is the shortest time between two builds that may change routes,
	// clusters or listeners, for a table of up to a thousand services. It grows with
	// the table, because every update of a route table costs each Envoy's main
	// thread time in proportion to it (8 ms at 1 000 hosts, 50–100 ms at 10 000).
	Structure time.Duration
	// MaxStructure is where that growth ends.
	MaxStructure time.Duration
	// Names is how long the first build waits at most for what labels name (OnWanted).
	Names time.Duration
}

// DefaultPace is what a control plane in service uses.
var DefaultPace = Pace{Tasks: 30 * time.Millisecond, Structure: 100 * time.Millisecond, MaxStructure: time.Second, Names: 20 * time.Second}

// structure is the time between two structural builds of a picture with n services.
func (p Pace) structure(n int) time.Duration {
	d := p.Structure
	if n > 1000 {
		d = d * time.Duration(n) / 1000
	}
	return min(d, max(p.MaxStructure, p.Structure))
}
