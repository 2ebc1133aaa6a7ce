package interlock

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// minPoll is the shortest interval that a config.toml may ask for: lists are the
// second way of knowing, and Interlock's were the only one.
const minPoll = 500 * time.Millisecond

func pollInterval(v value) {
	d, ok := v.span()
	if !ok {
		return
	}
	if d < minPoll {
		v.notice(short(d)+" is too short, 500ms holds", "write at least 500ms")
		d = minPoll
	}
	v.c.swarm().PollInterval = short(d)
	v.c.said("swarm.poll_interval", v.line)
}

func fleetText(key, wants string) func(value) {
	return func(v value) {
		if t, ok := v.text(wants); ok {
			v.coll.setFleet(key, t, v.line)
		}
	}
}

func fleetNumber(key, wants string) func(value) {
	return func(v value) {
		if n, ok := v.number(wants, 0, 1<<31); ok {
			v.coll.setFleet(key, n, v.line)
		}
	}
}

func fleetSpan(key string) func(value) {
	return func(v value) {
		if d, ok := v.span(); ok {
			v.coll.setFleet(key, short(d), v.line)
		}
	}
}

func fleetList(key string) func(value) {
	return func(v value) {
		if list, ok := v.list(); ok {
			v.coll.setFleet(key, list, v.line)
		}
	}
}

// ucpLabel is UCP's own label on everything that it made; its value names the old cluster.
const ucpLabel = "com.docker.ucp.InstanceID"

func fleetLabels(key string) func(value) {
	return func(v value) {
		m, ok := v.table()
		delete(m, ucpLabel)
		if ok && len(m) > 0 {
			v.coll.setFleet(key, m, v.line)
		}
	}
}

// ucpNodes is a node label that UCP sets: on a Swarm without UCP it finds no node.
var ucpNodes = regexp.MustCompile(`^node\.labels\.com\.docker\.ucp\.orchestrator\.swarm\s*==\s*true$`)

func proxyConstraints(v value) {
	list, ok := v.list()
	if !ok {
		return
	}
	kept := slices.DeleteFunc(slices.Clone(list), ucpNodes.MatchString)
	if len(kept) < len(list) {
		v.notice("node.labels.com.docker.ucp.orchestrator.swarm is a label of UCP, which finds no node on a Swarm without it; it is left out", "drop it")
	}
	if len(kept) > 0 {
		v.coll.setFleet("constraints", kept, v.line)
	}
}

// envoyFlags are those that a user may have reason to give.
var envoyFlags = []string{"--concurrency", "--log-level", "-l", "--component-log-level", "--drain-time-s", "--drain-strategy", "--parent-shutdown-time-s", "--log-format", "--log-path", "--cpuset-threads", "--disable-hot-restart"}

// proxyArgs keeps what Envoy takes: a flag, with its value behind "=" or in the next argument.
func proxyArgs(v value) {
	list, ok := v.raw.([]any)
	if !ok {
		v.unreadable("a list of texts")
		return
	}
	var kept, dropped []string
	envoys := false
	for _, x := range list {
		t, ok := scalar(x)
		if !ok || t == "" {
			continue
		}
		if flag, _, _ := strings.Cut(t, "="); strings.HasPrefix(t, "-") {
			envoys = slices.Contains(envoyFlags, flag)
		}
		if envoys {
			kept = append(kept, t)
		} else {
			dropped = append(dropped, t)
		}
	}
	if len(kept) > 0 {
		v.coll.setFleet("args", kept, v.line)
	}
	if len(dropped) > 0 {
		v.notice("Envoy does not take "+quoted(strings.Join(dropped, " ")), "write Envoy's own flags, such as --log-level")
	}
}

func publishMode(v value) {
	t, ok := v.text("ingress or host")
	switch {
	case !ok:
	case strings.EqualFold(t, "host"):
		v.coll.setFleet("publish_mode", "host", v.line)
	default:
		v.unreadable("ingress or host")
	}
}

// What counts as UCP's own.

var imagePattern = regexp.MustCompile(`(^|/)(ucp-interlock-(extension|proxy|config)|interlock-extension-nginx|interlock-extension-haproxy)([:@]|$)`)

func interlockImage(raw any) bool {
	t, ok := scalar(raw)
	return ok && imagePattern.MatchString(t)
}

// prefixed recognises the names that UCP and its documentation gave to services.
func prefixed(names ...string) func(any) bool {
	return func(raw any) bool {
		t, ok := scalar(raw)
		return ok && slices.ContainsFunc(names, func(n string) bool { return t == n || strings.HasPrefix(t, n+"-") })
	}
}

func instanceID(raw any) bool {
	m, ok := raw.(map[string]any)
	return ok && len(m) == 1 && slices.Collect(maps.Keys(m))[0] == ucpLabel
}

// onlyUCP recognises the constraints that UCP wrote by itself.
func onlyUCP(raw any) bool {
	list, ok := texts(raw)
	return ok && !slices.ContainsFunc(list, func(t string) bool {
		return !ucpNodes.MatchString(t) && strings.ReplaceAll(t, " ", "") != "node.platform.os==linux"
	})
}
