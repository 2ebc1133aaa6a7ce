package overview

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/secrets/ca"
	"github.com/waggle-lb/waggle/translate/labels"
)

// wrong says what an operator must look at, the most urgent first.
func (o *Overview) wrong() []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, r := range o.Replicas {
		s := r.Status
		if s == nil || !s.Source.Stale {
			continue
		}
		since := "and never could"
		if s.Source.LastRead != nil {
			since = "for " + ago(s.Now.Sub(*s.Source.LastRead)) + "; what was read last stays in force"
		}
		say("%s cannot read what runs (source %s), %s: %s", r.API, s.Source.Name, since, s.Source.Error)
	}
	for _, r := range o.Replicas {
		if r.Status == nil {
			say("%s does not answer: %s", r.API, r.Error)
		}
	}
	for _, r := range o.Replicas {
		s := r.Status
		if s == nil {
			continue
		}
		if !s.Ready {
			say("%s is not ready: %s", r.API, s.NotReady)
		}
		if s.Channel.Error != "" {
			say("%s does not use its newest certificate, the one before stays in force: %s", r.API, s.Channel.Error)
		}
		if end := s.Channel.CertificateEnds; end != nil && end.Before(s.Now.Add(ca.RenewBefore)) {
			say("the certificate of %s ends at %s: issue it again with «waggle ca issue»", r.API, end.UTC().Format(time.DateTime))
		}
		for _, h := range s.Held {
			if age := s.Now.Sub(h.Since); age >= confirmed {
				say("%s holds back a change of collection %s for %s: %s", r.API, h.Collection, ago(age), h.Reason)
			}
		}
		if s.Config.Error != "" {
			say("%s does not use its newest configuration, the one before stays in force: %s", r.API, s.Config.Error)
		}
	}
	if configs := o.configs(); len(configs) > 1 {
		say("the replicas have different configurations: %s", strings.Join(configs, ", "))
	}
	for _, c := range o.Collections {
		if c.Agree {
			continue
		}
		var each []string
		for _, r := range o.Replicas {
			if r.Status == nil {
				continue
			}
			g, has := c.Generations[r.API]
			switch {
			case !has:
				g = "does not have it"
			case g == "":
				g = "serves nothing yet"
			}
			each = append(each, r.API+" "+g)
		}
		slices.Sort(each)
		say("the replicas disagree about collection %s: %s", c.Name, strings.Join(each, ", "))
	}
	for _, p := range o.Proxies {
		for _, k := range p.Kinds {
			if len(k.Rejected) == 0 {
				continue
			}
			why := ""
			if n := p.LastNACK; n != nil && n.Kind == k.Kind {
				why = ": " + n.Message
			}
			say("proxy %s rejects %s %s, and keeps what it had%s", p.NodeID, k.Kind, some(k.Rejected), why)
		}
	}
	for _, c := range o.Collections {
		for _, replica := range slices.Sorted(maps.Keys(c.Quarantines)) {
			for _, q := range c.Quarantines[replica] {
				say("%s does not serve the newest %s of collection %s: proxies reject it: %s", replica, whatIsHeld(q), c.Name, q.Message)
			}
		}
	}
	for _, c := range o.Certificates {
		switch {
		case c.Kept != "":
			say("the newest version of certificate %s of %s is not served, the one before is, until %s: %s", c.Name, cmp.Or(c.Collection, "all collections"), ends(c).UTC().Format(time.DateTime), c.Kept)
		case c.NotAfter != nil && c.NotAfter.Before(o.now().Add(secrets.Soon)):
			say("the certificate %s of %s ends at %s: renew it", c.Name, cmp.Or(c.Collection, "all collections"), c.NotAfter.UTC().Format(time.DateTime))
		}
	}
	errors := 0
	for _, p := range o.Problems {
		if p.Severity == labels.Error {
			errors++
		}
	}
	switch errors {
	case 0:
	case 1:
		say("1 error in the labels of services, see below")
	default:
		say("%d errors in the labels of services, see below", errors)
	}
	return out
}

// confirmed is how long it may take until a second list confirms that much has gone.
const confirmed = 3 * time.Second

// whatIsHeld names what is in quarantine.
func whatIsHeld(q api.Quarantined) string {
	if len(q.Hosts) > 0 {
		return fmt.Sprintf("%s of %s %s", some(q.Hosts), q.Kind, q.Name)
	}
	return q.Kind + " " + q.Name
}

// now is what the replicas' clocks say.
func (o *Overview) now() (t time.Time) {
	for _, r := range o.Replicas {
		if r.Status != nil && r.Status.Now.After(t) {
			t = r.Status.Now
		}
	}
	return t
}

// configs are the configurations in force, each with who has it.
func (o *Overview) configs() []string {
	who := map[string][]string{}
	for _, r := range o.Replicas {
		if r.Status != nil && r.Status.Config.Hash != "" {
			who[r.Status.Config.Hash] = append(who[r.Status.Config.Hash], r.API)
		}
	}
	var out []string
	for _, hash := range slices.Sorted(maps.Keys(who)) {
		out = append(out, fmt.Sprintf("%.12s at %s", hash, strings.Join(who[hash], " and ")))
	}
	return out
}

// some names things without filling the line.
func some(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s … (%d)", strings.Join(names[:3], ", "), len(names))
	}
	return strings.Join(names, ", ")
}

// ago is a duration as people say it.
func ago(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
