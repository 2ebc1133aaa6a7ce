// Package labels is the label language: from the labels of one service to its
// routes and the problems of its author. One table of keys (keys.go, and a file for each section) drives
// parsing, diagnostics and the generated reference in docs/labels.md.
package labels

import "strings"

// Severity of a Problem.
type Severity string

// An error costs a route, a host or a service; a warning costs a key's effect; info explains a choice.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Info    Severity = "info"
)

// Problem is one thing wrong with one service, as lint, explain, the API and
// the golden tests all show it.
type Problem struct {
	Severity   Severity `json:"severity"`
	Service    string   `json:"service"`
	Collection string   `json:"collection"`
	Label      string   `json:"label"` // the key as its author wrote it, with prefix and route
	Value      string   `json:"value"`
	Reason     string   `json:"reason"`
	Hint       string   `json:"hint"`   // the nearest valid form, or the way out
	Winner     string   `json:"winner"` // in a conflict, the service that holds what is claimed
}

// Class is column F of the label reference: what a bad value does to its route.
type Class byte

// The classes. None is for keys outside the scheme (–): their effect alone is lost.
const (
	None    Class = '-'
	Match   Class = 'M' // the route is not built; what it claims answers 503
	Guard   Class = 'G' // the route answers 503; it never opens
	Comfort Class = 'C' // the key's default holds
)

// Set is the merged labels of one service before their values are read: what
// all prefixes say, by route ("" is the unnamed one) and key.
type Set struct {
	Routes map[string]map[string]Value // route -> key (for keys that take a name: "key.Name") -> value
	// Problems found while merging: unknown keys, conflicts between prefixes, size
	// limits. Their Collection is empty; Parse hands them on with it.
	Problems []Problem
	// Broken is set where the labels exceed a limit (64 routes, 64 KiB): what was
	// left unread may have been a guard, so every route of the service answers 503.
	Broken bool
	// HRM gives, by name, the routes that HRM labels make.
	HRM map[string]HRMRoute
	// AccessLabel is the value of com.docker.ucp.access.label ("/Shared/dev"), "" without one.
	AccessLabel string
}

// Value is one label with the name under which its author knows it.
type Value struct {
	Label string // "com.docker.lb.api.port"; "defaults: port" or "required: port" where the operator wrote it
	Text  string
}

// Service is what the labels of one service say, values read.
type Service struct {
	Network     string      // "" = choose; "bridge" = the host-published port
	BackendMode BackendMode // Task unless said otherwise
	// Broken is set where a service-wide key of class M is bad, or the labels exceed
	// a limit: every route of the service is then Broken too.
	Broken   bool
	Routes   []*Route // the unnamed one first, then by name; empty: nothing to publish
	Problems []Problem
}

// BackendMode is where requests of a service go.
type BackendMode string

// The backend modes.
const (
	TaskMode BackendMode = "task"
	VIPMode  BackendMode = "vip"
	HostMode BackendMode = "host"
)

// Route is one named route of a service (or its unnamed one).
type Route struct {
	Name string // "" for the unnamed one

	// What the labels say, by section of the language.
	Traffic
	Destination
	Answers
	TLS
	Resilience
	Guards
	Shaping

	// Broken is set where a key of class M is bad or not built yet: what the route
	// claims answers 503 "not_built". Hosts, DefaultBackend and ContextRoot still say
	// what that is; a route whose hosts are missing or all bad claims nothing.
	Broken bool
	// Vague is set, with Broken, where it is not known which part of its hosts the
	// route claims, because a key that narrows the match (context_root, path,
	// methods, match_header …) is bad or not built. ContextRoot is then "/" or wider
	// than meant. Such a route still holds its hosts, so that no wildcard or default
	// backend takes their requests, but it is a last resort: it answers 503 for
	// requests that no other route of the host takes. It never stands before
	// another route and never shares its match.
	Vague bool
	// Closed is set where a guard cannot be built: the route answers 503 "guard_unavailable".
	Closed bool

	// Labels gives, by key, the label as written, for problems found after parsing.
	Labels map[string]string
	// standard is set for keys whose value is the language's own default.
	standard map[string]bool
	// LabelPrefix is what the author writes before a key of this route
	// ("com.docker.lb.api."), to name labels that are missing.
	LabelPrefix string
}

// Label is the label of a key as its author wrote it, or, where there is none,
// as they would.
func (r *Route) Label(key string) string {
	if label, ok := r.Labels[key]; ok {
		return label
	}
	return r.LabelPrefix + key
}

// Standard reports whether what is said with a key is what holds without it, or comes
// from the defaults of the operator, who does not mean this route alone.
func (r *Route) Standard(key string) bool {
	return r.standard[key] || strings.HasPrefix(r.Labels[key], "defaults: ")
}

// ClassOf is the class of a key, None for what is no key.
func ClassOf(name string) Class {
	if k, ok := keysByName[name]; ok {
		return k.class
	}
	return None
}
