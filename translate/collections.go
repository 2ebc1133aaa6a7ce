package translate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

const clusterKey = "service_cluster"

// place finds the one collection that publishes a service, or none and why.
//
// The first rule that speaks decides: service_cluster, access label, placement
// constraint, the default collection. A rule that names no configured collection,
// or two, ends the search: the service is published nowhere.
func place(cfg *config.Config, s *watcher.Service, set *labels.Set) (*config.Collection, []Problem) {
	nowhere := func(sev labels.Severity, label, value, reason, hint string) (*config.Collection, []Problem) {
		return nil, []Problem{{Severity: sev, Service: s.Name, Label: label, Value: value, Reason: reason, Hint: hint}}
	}
	if s.Mode.Job() {
		return nowhere(labels.Warning, "", "", "a job runs to its end and is never published", "remove the labels, or make it a service")
	}

	byAccess := accessCollections(cfg, set.AccessLabel)
	// admit is the last word: a collection with access labels refuses services
	// whose access label is another's, whatever rule chose it.
	admit := func(c *config.Collection, label, value string) (*config.Collection, []Problem) {
		if len(c.AccessLabels) > 0 && len(byAccess) > 0 && !slices.Contains(byAccess, c.Name) {
			return nowhere(labels.Error, label, value,
				fmt.Sprintf("collection %s refuses services whose access label is another's: %s belongs to %s", c.Name, set.AccessLabel, strings.Join(byAccess, ", ")),
				"deploy the service with an access label of "+c.Name+": "+strings.Join(c.AccessLabels, ", "))
		}
		return c, nil
	}

	if v, ok := set.ServiceCluster(); ok && strings.TrimSpace(v.Text) != "" {
		name := strings.TrimSpace(v.Text)
		if c := cfg.Collections[name]; c != nil {
			return admit(c, v.Label, v.Text)
		}
		reason, hint := "there is no such collection: published nowhere", "one of "+strings.Join(collectionNames(cfg), ", ")
		if meant := config.Nearest(name, collectionNames(cfg)); meant != "" {
			hint = "did you mean `" + meant + "`?"
		}
		if strings.Contains(name, ",") {
			reason = "a service is in exactly one collection: published nowhere"
		}
		return nowhere(labels.Error, v.Label, v.Text, reason, hint)
	}

	switch len(byAccess) {
	case 0:
	case 1:
		return cfg.Collections[byAccess[0]], nil
	default:
		return nowhere(labels.Error, labels.AccessLabel, set.AccessLabel, "the access label belongs to two collections: "+strings.Join(byAccess, ", "), "say which with "+clusterKey)
	}

	switch byConstraint, constraint := constraintCollections(cfg, s.Constraints); len(byConstraint) {
	case 0:
	case 1:
		return admit(cfg.Collections[byConstraint[0]], "", constraint)
	default:
		return nowhere(labels.Error, "", constraint, "the placement constraints belong to two collections: "+strings.Join(byConstraint, ", "), "say which with "+clusterKey)
	}

	for _, name := range collectionNames(cfg) {
		if c := cfg.Collections[name]; c.Default {
			return admit(c, "", "")
		}
	}
	return nowhere(labels.Warning, "", "", "no rule says which collection publishes the service, and no collection is the default: not published",
		"label "+clusterKey+": one of "+strings.Join(collectionNames(cfg), ", "))
}

func collectionNames(cfg *config.Config) []string { return slices.Sorted(maps.Keys(cfg.Collections)) }

// accessCollections gives the collections with the longest access label that is
// equal to the service's or above it. More than one only where a configuration
// names one access label twice.
func accessCollections(cfg *config.Config, access string) []string {
	access = strings.TrimRight(strings.TrimSpace(access), "/")
	if access == "" {
		return nil
	}
	var out []string
	longest := -1
	for _, name := range collectionNames(cfg) {
		for _, l := range cfg.Collections[name].AccessLabels {
			l = strings.TrimRight(strings.TrimSpace(l), "/")
			if access != l && !strings.HasPrefix(access, l+"/") {
				continue
			}
			switch {
			case len(l) > longest:
				out, longest = []string{name}, len(l)
			case len(l) == longest && !slices.Contains(out, name):
				out = append(out, name)
			}
		}
	}
	return out
}

// constraintCollections gives the collections that one of the constraints names,
// and the first constraint that names any.
func constraintCollections(cfg *config.Config, constraints []string) (names []string, constraint string) {
	for _, have := range constraints {
		for _, name := range collectionNames(cfg) {
			for _, want := range cfg.Collections[name].MatchConstraints {
				if withoutBlanks(have) != withoutBlanks(want) || slices.Contains(names, name) {
					continue
				}
				if constraint == "" {
					constraint = have
				}
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names, constraint
}

func withoutBlanks(s string) string { return strings.Join(strings.Fields(s), "") }
