package secrets

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/waggle-lb/waggle/watcher"
)

// Find gives what a service of a stack means by a name: the object of its own stack
// first, then that of the name as written, then a file of the collection. The content
// of a Docker secret may also be a file of the collection with the secret's name.
// Names that lead somewhere else (with / or ..) are never found.
func Find(p *watcher.Picture, m *Material, collection, stack, name string) (Item, error) {
	missing := &NotFound{Name: name}
	names := candidates(stack, name)
	if names == nil {
		return Item{}, missing
	}
	var own shelf
	var declared map[string]Item
	var refused map[string]string // of those
	if m != nil {
		own, declared, refused = m.shelves[collection], m.declared, m.refused
		missing.Courier = m.courier
	}
	elsewhere := p.Static || p.Loopback // no Swarm to ask
	for _, n := range names {
		if i, ok := own.secrets[n]; ok {
			return i, nil
		}
		if i, ok := declared[n]; ok {
			return i, nil
		}
		if p.Secrets[n] != nil {
			if i, ok := own.files[n]; ok {
				return i, nil
			}
			if reason := refused[n]; reason != "" {
				return Item{}, &NotFound{Name: name, Kept: n, Reason: reason}
			}
			if elsewhere {
				return Item{Kind: Secret, Name: n, Assumed: true}, nil
			}
			if failed, coming := own.failed[n], own.coming[n]; missing.Kept == "" || failed != "" || coming {
				missing.Kept, missing.Reason = n, cmp.Or(failed, own.refused[n])
				missing.Coming, missing.failed = coming, failed != ""
			}
			continue // a config or file of that name may be meant
		}
		if c := p.Configs[n]; c != nil {
			return Item{Kind: Config, Name: n, Data: Hide(c.Data), Assumed: elsewhere && c.Data == nil}, nil
		}
	}
	if i, ok := own.files[name]; ok {
		return i, nil
	}
	if missing.Kept == "" {
		missing.Reason = own.refused[name]
	}
	return Item{}, missing
}

// candidates are the names of objects that a service of a stack may mean by a name, the
// one that holds first; nil where it can mean none.
func candidates(stack, name string) []string {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\\\x00"):
		return nil
	case stack == "":
		return []string{name}
	}
	return []string{stack + "_" + name, name}
}

// NotFound says that there is nothing behind a name that can be used.
type NotFound struct {
	Name string
	// Kept is the Docker secret that is meant and whose content the control plane was
	// not given; "" where there is none.
	Kept string
	// Reason says why what is on disk under the name is not used; "" where nothing is.
	Reason string
	// Courier is set where there is one: it brings what carries the CollectionLabel.
	Courier bool
	// Coming is set where it is about to bring Kept.
	Coming bool
	failed bool // it could not, and Reason says why
}

// Underway reports whether a courier tries to bring what is missing, be it for the
// first time or again: see Material.Before.
func (e *NotFound) Underway() bool { return e.Coming || e.failed }

// Error is what is missing.
func (e *NotFound) Error() string {
	switch {
	case e.Coming:
		return fmt.Sprintf("the courier is fetching the content of the secret %s", e.Kept)
	case e.Kept != "" && e.Reason != "":
		return fmt.Sprintf("the secret %s cannot be used: %s", e.Kept, e.Reason)
	case e.Kept != "":
		return fmt.Sprintf("the secret %s exists, and its content was not given to the control plane", e.Kept)
	case e.Reason != "":
		return fmt.Sprintf("the file %s cannot be used: %s", e.Name, e.Reason)
	}
	return fmt.Sprintf("there is no secret, config or file called %s", e.Name)
}

// Hint is the way out: for a secret, the two lines that grant it.
func (e *NotFound) Hint(collection string) string {
	switch {
	case e.Coming:
		return "wait: it takes some seconds at most"
	case e.failed:
		return "it is tried again by itself; put right what it says, or mount the secret into the control plane"
	case e.Reason != "":
		return "put the file right: a regular file, not empty, of at most 1 MiB"
	case e.Kept != "" && e.Courier:
		return fmt.Sprintf("the courier may fetch only what is made for the collection: `docker secret create --label %s=%s …`; or mount the secret into the control plane", CollectionLabel, collection)
	case e.Kept != "":
		return fmt.Sprintf("run `docker service update --secret-add %s <the control plane's service>`, and add it to collections.%s.certificates.secrets", e.Kept, collection)
	}
	return "create it with `docker secret create` or `docker config create`, or put the file into a directory of collections." + collection + ".certificates.directories"
}
