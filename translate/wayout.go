package translate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate/labels"
)

// Ways out depend on where a service runs: in a Swarm, in a file that will be
// deployed to one, or on a plain Docker.

// toJoin says how a service gets onto one of the networks.
func (s *service) toJoin(names ...string) string {
	what := "NETWORK"
	if len(names) > 0 {
		what = names[0]
	}
	if s.spec.Plain {
		return fmt.Sprintf("add %s under `networks:` of the service", what)
	}
	return fmt.Sprintf("add %s under `networks:` of the service, or for a running one: docker service update --network-add %s %s", what, what, s.spec.Name)
}

// theirs says on which network the proxies are, and where the service is on none of
// these, how it gets there.
func (s *service) theirs(n networkNames, proxies []string) string {
	var names []string
	for _, id := range proxies {
		names = append(names, n.name(id))
	}
	if len(names) == 0 { // a file does not say that they are there
		names = s.coll.cfg.Networks
	}
	hint := "write one of theirs: " + strings.Join(names, ", ")
	if !intersects(proxies, s.spec.Networks) {
		hint += "; and " + s.toJoin(names...)
	}
	return hint
}

// toPublish says how a port gets onto the service's node.
func (s *service) toPublish(port uint32) string {
	if s.spec.Plain {
		return fmt.Sprintf("ports: [\"%d\"]", port)
	}
	return fmt.Sprintf("ports: [{target: %d, mode: host}]", port)
}

// showsPort tells where a service shows ports and the one that its label says is
// none of them. Many containers show none, or not all: it is a hint and no more.
func (s *service) showsPort(r *route) {
	port := r.label.Port
	shown, where := shownPorts(s.spec)
	if port == 0 || len(shown) == 0 || slices.Contains(shown, port) || slices.Contains(s.spec.Expose, port) {
		return
	}
	p := r.problem(labels.Info, "port", fmt.Sprintf("the service has %s under %s, and not this one", numbers(shown), where))
	p.Value, p.Hint = fmt.Sprint(port), fmt.Sprintf("if the container does not listen on it: %s: %d", r.key("port"), shown[0])
	s.problems = append(s.problems, p)
}

// nearestNetwork is a hint at the network that is meant, else at those there are.
func (n networkNames) nearest(name string, own []string) string {
	var all []string
	for _, id := range n.sorted(own) {
		all = append(all, n.name(id))
	}
	if meant := config.Nearest(name, all); meant != "" {
		return "did you mean `" + meant + "`?"
	}
	return "the name of a network that the service is on: " + orNone(strings.Join(all, ", "))
}

// missing gives the collection's networks that do not exist.
func (n networkNames) missing(c *config.Collection) []string {
	return slices.DeleteFunc(slices.Clone(c.Networks), func(name string) bool { return len(n.usable(name)) > 0 })
}
