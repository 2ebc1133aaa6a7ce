package labels

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/watcher"
)

// ServiceClusters lists the collections that services ask for by name, sorted,
// without duplicates: what lint, render and lab make collections of where there
// is no waggle.yml. Names that no collection can have are left out.
func ServiceClusters(prefixes []string, services []*watcher.Service) []string {
	found := map[string]struct{}{}
	for _, s := range services {
		if v, ok := Merge(prefixes, s.Name, s.Labels).ServiceCluster(); ok {
			if name, err := collectionName.read(v.Text); err == nil {
				found[name] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// Misplaced tells of labels that were written under `labels:` instead of
// `deploy.labels`: they reach the containers, and a Swarm service without them.
// A label that the service has as well is where it should be, and on a plain Docker
// so are all. One warning a service, for all of them; its Collection is empty.
func Misplaced(prefixes []string, service *watcher.Service) []Problem {
	if service.Plain {
		return nil
	}
	var labels []string
	ours := false
	for _, label := range slices.Sorted(maps.Keys(service.ContainerLabels)) {
		if _, placed := service.Labels[label]; !placed && isHRM(label) {
			labels = append(labels, strings.ToValidUTF8(label, "\uFFFD"))
			ours = true
		}
	}
	for _, w := range takeApart(prefixes, service.ContainerLabels) {
		if _, placed := service.Labels[w.label]; !placed {
			labels = append(labels, w.label)
			ours = ours || w.key.key != nil
		}
	}
	if !ours {
		return nil
	}
	reason := "labels under `labels:` reach the container, not the service"
	if more := len(labels) - 1; more > 0 {
		reason += fmt.Sprintf(" (this one and %d more)", more)
	}
	return []Problem{{
		Severity: Warning, Service: service.Name, Label: oneLine(labels[0]), Value: shown(service.ContainerLabels[labels[0]]),
		Reason: reason, Hint: "move them under `deploy.labels`",
	}}
}
