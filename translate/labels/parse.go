package labels

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Options is what an operator says about the services of one collection.
type Options struct {
	Collection string
	Defaults   map[string]string // label keys without prefix; labels override them
	Required   map[string]string // the same; they override labels
}

// Parse reads the values of a service's labels: key by key and route by route,
// what is required > the label > defaults > the language's own default. It never
// fails: what is bad costs what its class says, and is told in Problems, which
// begins with those of the set. A set that asks for nothing gives a Service
// without routes.
func Parse(set *Set, service string, opts Options) *Service {
	p := &parser{
		set: set, name: service, collection: opts.Collection,
		required: operatorValues("required", opts.Required),
		defaults: operatorValues("defaults", opts.Defaults),
		service:  &Service{BackendMode: TaskMode, Broken: set.Broken},
	}
	for _, problem := range set.Problems {
		problem.Collection = opts.Collection
		p.service.Problems = append(p.service.Problems, problem)
	}
	if len(set.Routes) == 0 {
		return p.service
	}
	p.serviceWide = p.settings("", true)
	for _, s := range p.serviceWide {
		p.read(s, &target{service: p.service})
	}
	for _, name := range slices.Sorted(maps.Keys(set.Routes)) {
		if set.publishes(name) {
			p.service.Routes = append(p.service.Routes, p.readRoute(name))
		}
	}
	for _, r := range p.service.Routes {
		r.Broken = r.Broken || p.service.Broken
	}
	if len(p.service.Routes) == 0 {
		first := firstLabel(set.Routes[""])
		p.report(Info, first, "says nothing about which traffic is meant: the service is not published", "add `"+prefixOf(set.Routes[""])+"hosts`")
	}
	return p.service
}

type parser struct {
	set              *Set
	name, collection string
	required         map[string]Value
	defaults         map[string]Value
	service          *Service
	serviceWide      []setting // that hold
}

func (p *parser) report(severity Severity, v Value, reason, hint string) {
	p.service.Problems = append(p.service.Problems, Problem{
		Severity: severity, Service: p.name, Collection: p.collection,
		Label: oneLine(v.Label), Value: shown(v.Text), Reason: oneLine(reason), Hint: oneLine(hint),
	})
}

func (p *parser) readRoute(name string) *Route {
	r := &Route{
		Name:    name,
		Traffic: Traffic{ContextRoot: "/"},
		Answers: Answers{RedirectCode: redirectCode},
		Resilience: Resilience{
			IdleTimeout: idleTimeout, ConnectTimeout: connectTimeout, Retries: retryCount, FailTimeout: failTimeout,
			HealthInterval: healthInterval, HealthTimeout: healthTimeout, HealthRise: healthRise, HealthFall: healthFall,
		},
		Labels: map[string]string{}, LabelPrefix: oneLine(prefixOf(p.set.Routes[name])),
	}
	if from, ok := p.set.HRM[name]; ok {
		r.fromHRM(from)
	}
	if name != "" && !validRoute(name) {
		r.Broken = true
		p.report(Error, firstLabel(p.set.Routes[name]),
			fmt.Sprintf("`%s` is not a name for a route: what it claims answers 503", shown(name)), routeHint(name))
	}
	claims := false // a key is there that says what the route takes
	for _, s := range p.settings(name, false) {
		r.Labels[s.canonical] = oneLine(s.value.Label)
		if s.key.standard != "" && s.key.value.same(s.value.Text, s.key.standard) {
			if r.standard == nil {
				r.standard = map[string]bool{}
			}
			r.standard[s.canonical] = true
		}
		if ok := p.read(s, &target{service: p.service, route: r}); !ok {
			claims = claims || s.key.name == "default_backend" // bad: what it would have said is not known
		}
		switch s.key.name {
		case "hosts", "tcp_port", "udp_port", "redirects":
			claims = true
		}
	}
	for _, s := range p.serviceWide {
		r.Labels[s.canonical] = oneLine(s.value.Label)
	}
	if !claims && !r.DefaultBackend {
		r.Broken = true
		v := Value{Label: r.LabelPrefix + "hosts"}
		switch {
		case name != "":
			p.report(Error, v, fmt.Sprintf("the route `%s` has no hosts, so it takes no traffic; it inherits nothing from the unnamed route", shown(name)),
				"add `"+v.Label+"` or `"+r.LabelPrefix+"default_backend: true`")
		case len(p.set.Routes) > 1:
			p.report(Error, v, "the unnamed route has no hosts, so it takes no traffic; named routes inherit nothing from it",
				"add `"+v.Label+"`, or give its labels to the named routes (`"+r.LabelPrefix+"<route>."+firstKey(p.set.Routes[""])+"`)")
		default:
			p.report(Error, v, "there are no hosts, so the service takes no traffic",
				"add `"+v.Label+"` or `"+r.LabelPrefix+"default_backend: true`")
		}
	}
	return r
}

// setting is one key with the value that holds for a route.
type setting struct {
	key       row
	canonical string
	name      string // of keys that take one
	value     Value
}

// settings gives what holds for a route, in the order of the table: its own keys,
// or the service-wide ones of the unnamed route.
func (p *parser) settings(route string, serviceWide bool) []setting {
	own := p.set.Routes[route]
	all := make([]setting, 0, len(own)+len(p.required)+len(p.defaults))
	add := func(canonical string, v Value) {
		if k, name, known := splitKey(canonical); known && k.serviceWide == serviceWide {
			all = append(all, setting{k, canonical, name, v})
		}
	}
	for canonical, v := range p.required {
		add(canonical, v)
	}
	for canonical, v := range own {
		if _, overridden := p.required[canonical]; !overridden {
			add(canonical, v)
		}
	}
	for canonical, v := range p.defaults {
		_, overridden := p.required[canonical]
		if _, labelled := own[canonical]; !overridden && !labelled {
			add(canonical, v)
		}
	}
	slices.SortFunc(all, func(a, b setting) int {
		return cmp.Or(cmp.Compare(a.key.place, b.key.place), strings.Compare(a.canonical, b.canonical))
	})
	return all
}

// read puts a value into its field and tells what is wrong with it. It reports
// whether the value could be read.
func (p *parser) read(s setting, into *target) bool {
	if s.key.name == "service_cluster" {
		return true // decided before, where the collections are known
	}
	if own, ok := p.set.Routes[routeName(into)][s.canonical]; ok && own.Label != s.value.Label && own.Text != s.value.Text && !s.key.value.same(own.Text, s.value.Text) {
		p.report(Info, own, fmt.Sprintf("the operator of the collection requires `%s: %s`, which holds", s.canonical, shown(s.value.Text)), "remove the label")
	}
	into.name = s.name
	notes, ok := check(s, into)
	severity := severityOf(s.key.class)
	for _, n := range notes {
		v := s.value
		if n.value != "" {
			v.Text = n.value
		}
		if !ok && s.key.value.secret {
			v.Text = "[redacted]"
		}
		reason := n.reason
		switch {
		case !ok:
			reason += ": " + p.cost(s)
		case n.severity == Error:
			reason += ": the entry is dropped"
		}
		p.report(cmp.Or(n.severity, severity), v, reason, n.hint)
	}
	if ok && (s.key.value.built || s.key.standard != "" && s.key.value.same(s.value.Text, s.key.standard)) {
		return true
	}
	if ok {
		hint := "remove the label"
		if s.key.standard != "" {
			hint += ", or write `" + s.key.standard + "`"
		}
		p.report(severity, s.value, fmt.Sprintf("`%s` is not built yet: %s", s.key.name, p.cost(s)), hint)
	}
	switch {
	case s.key.class == Match && s.key.serviceWide:
		into.service.Broken = true
	case s.key.class == Match:
		into.route.Broken = true
		into.route.Vague = into.route.Vague || s.key.narrows
	case s.key.class == Guard:
		into.route.Closed = true
	case s.key.class == Comfort:
		if fallback, has := p.fallback(s); has {
			check(fallback, into)
		}
	}
	return ok
}

// fallback is what the collection's defaults say where a label of class C is bad.
func (p *parser) fallback(s setting) (setting, bool) {
	v, has := p.defaults[s.canonical]
	if !has || v.Label == s.value.Label {
		return setting{}, false
	}
	s.value = v
	_, ok := check(s, nil)
	return s, ok
}

// check reads name and value of a setting; into may be nil.
func check(s setting, into *target) (notes []note, ok bool) {
	if err := s.key.checkName(s.name); err != nil {
		n := noteOf(err)
		n.severity = severityOf(s.key.class)
		n.reason = fmt.Sprintf("the name %q: %s", s.name, n.reason)
		return []note{n}, false
	}
	if !utf8.ValidString(s.value.Text) {
		return []note{{reason: "is not UTF-8", hint: "write it in UTF-8"}}, false
	}
	if strings.ContainsAny(s.value.Text, "\r\n\x00") {
		return []note{{reason: "has a line break or NUL in it", hint: "write it on one line"}}, false
	}
	return s.key.value.read(s.value.Text, into)
}

func routeName(t *target) string {
	if t.route == nil {
		return ""
	}
	return t.route.Name
}

func severityOf(c Class) Severity {
	if c == Comfort {
		return Warning
	}
	return Error
}

// cost says what a bad value takes from its service.
func (p *parser) cost(s setting) string {
	k := s.key
	fallback, has := p.fallback(s)
	switch {
	case k.class == Match && k.serviceWide:
		return "the service is not served, what it claims answers 503"
	case k.class == Match:
		return "the route is not served, what it claims answers 503"
	case k.class == Guard:
		return "the route answers 503, because a guard never opens"
	case k.class == Comfort && k.value.built && has:
		return "the collection's default holds (" + shown(fallback.value.Text) + ")"
	case k.class == Comfort && k.standard != "" && k.standardText == "":
		return "the default holds (" + k.standard + ")"
	case k.class == Comfort:
		return "the default holds"
	default:
		return "HTTPS of the hosts is not served, plain HTTP stays"
	}
}

// operatorValues gives what defaults or required says by canonical key. What is
// no key is left out: CheckOperator has refused it.
func operatorValues(where string, m map[string]string) map[string]Value {
	if len(m) == 0 {
		return nil
	}
	values := make(map[string]Value, len(m))
	for _, text := range slices.Sorted(maps.Keys(m)) {
		k, name, known := splitKey(text)
		if !known || m[text] == "" {
			continue
		}
		if canonical := k.canonical(name); values[canonical].Label == "" {
			values[canonical] = Value{Label: where + ": " + text, Text: m[text]}
		}
	}
	return values
}

// firstKey is the first key of a route in byte order, "" of one without keys.
func firstKey(route map[string]Value) string {
	first := ""
	for k := range route {
		if first == "" || k < first {
			first = k
		}
	}
	return first
}

func firstLabel(route map[string]Value) Value { return route[firstKey(route)] }

// prefixOf is what stands before the keys of a route's labels.
func prefixOf(route map[string]Value) string {
	k := firstKey(route)
	label := route[k].Label
	return label[:max(0, len(label)-len(k))]
}

// routeHint gives the nearest valid name of a route.
func routeHint(name string) string {
	valid := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		default:
			return '-'
		}
	}, name), "-")
	if valid == "" {
		return "write a name of lower-case letters, digits and hyphens"
	}
	return "call it `" + valid + "`"
}
