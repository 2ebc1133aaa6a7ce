package labels

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// CheckOperator checks the label keys that an operator writes into waggle.yml:
// unknown keys and bad values, each as one sentence with the nearest valid form.
// where names the place ("collections.dev.defaults"). Keys that are not built yet
// are no error here; the services that they touch are told.
func CheckOperator(where string, m map[string]string) []error {
	var errs []error
	seen := map[string]string{}
	for _, text := range slices.Sorted(maps.Keys(m)) {
		refuse := func(reason, hint string) {
			errs = append(errs, fmt.Errorf("%s: %s: %s; %s", where, shown(text), reason, hint))
		}
		k, name, known := splitKey(text)
		if !known {
			refuse(unknownOperatorKey(text))
			continue
		}
		if k.name == "service_cluster" {
			refuse("chooses the collection and cannot be set by one", "remove it, or use `default`, `access_labels` or `match_constraints` of the collection")
			continue
		}
		canonical := k.canonical(name)
		if first, twice := seen[canonical]; twice {
			refuse(fmt.Sprintf("header names are compared without case, and `%s` says the same", first), "remove one of the two")
			continue
		}
		seen[canonical] = text
		if m[text] == "" {
			continue // not set
		}
		notes, ok := check(setting{key: k, canonical: canonical, name: name, value: Value{Text: m[text]}}, nil)
		for _, n := range notes {
			value := m[text]
			if n.value != "" {
				value = n.value
			}
			if !ok && k.value.secret {
				value = "[redacted]"
			}
			refuse(fmt.Sprintf("%q: %s", shown(value), n.reason), n.hint)
		}
	}
	return errs
}

func unknownOperatorKey(text string) (reason, hint string) {
	for _, prefix := range []string{"com.docker.lb.", "lb."} {
		if rest, found := strings.CutPrefix(text, prefix); found {
			if _, _, known := splitKey(rest); known {
				return "keys stand here without the prefix", "write `" + rest + "`"
			}
		}
	}
	if _, k, _ := split(text); k.key != nil {
		return "keys of one route cannot be set here; these hold for every route", "write `" + k.name + "`"
	}
	return unknown(written{label: text})
}
