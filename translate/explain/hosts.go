package explain

import (
	"fmt"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// chooseHost finds the virtual host by Envoy's rules (RouteMatcher::findVirtualHost):
// the exact domain, then the longest suffix "*.x", then the longest prefix "x.*",
// then "*"; without regard to case. It says in a sentence why.
func chooseHost(t *routev3.RouteConfiguration, host string, port uint32) (*routev3.VirtualHost, string) {
	host = strings.ToLower(host)
	if t.GetIgnorePortInHostMatching() {
		if i := portStart(host); i >= 0 {
			host = host[:i]
		}
	}
	var exact, suffix, prefix, rest *routev3.VirtualHost
	var longestSuffix, longestPrefix string
	matching := 0
	for _, v := range t.GetVirtualHosts() {
		for _, d := range v.GetDomains() {
			d = strings.ToLower(d)
			switch {
			case d == host:
				exact = v
			case d == "*":
				rest = v
			case strings.HasPrefix(d, "*"):
				if end := d[1:]; len(end) < len(host) && strings.HasSuffix(host, end) {
					matching++
					if len(d) > len(longestSuffix) {
						suffix, longestSuffix = v, d
					}
				}
			case strings.HasSuffix(d, "*"):
				if start := d[:len(d)-1]; len(start) < len(host) && strings.HasPrefix(host, start) && len(d) > len(longestPrefix) {
					prefix, longestPrefix = v, d
				}
			}
		}
	}
	switch {
	case exact != nil:
		return exact, fmt.Sprintf("host %s is claimed exactly%s", host, claimants(" by ", exact))
	case suffix != nil:
		why := fmt.Sprintf("host %s is covered by %s%s", host, longestSuffix, claimants(" of ", suffix))
		if matching > 1 {
			why += fmt.Sprintf(", the longest wildcard of %d that match", matching)
		}
		return suffix, why
	case prefix != nil:
		return prefix, fmt.Sprintf("host %s is covered by %s%s", host, longestPrefix, claimants(" of ", prefix))
	case rest != nil:
		if whose := claimants("", rest); whose != "" {
			return rest, fmt.Sprintf("nobody claims host %s: it falls to the default backend, %s", host, whose)
		}
		return rest, "nobody claims host " + host
	}
	return nil, ""
}

// claimants names the services behind a virtual host, as far as that fits in a
// sentence, after a word that leads to them; "" if there are none.
func claimants(lead string, v *routev3.VirtualHost) string {
	const most = 3
	var names []string
	seen := map[string]bool{}
	for _, r := range v.GetRoutes() {
		for _, s := range servicesOf(r) {
			if !seen[s] {
				seen[s] = true
				names = append(names, s)
			}
		}
	}
	switch {
	case len(names) == 0:
		return ""
	case len(names) > most:
		return fmt.Sprintf("%s%s and %d more", lead, strings.Join(names[:most], ", "), len(names)-most)
	}
	return lead + strings.Join(names, ", ")
}

// servicesOf names the services that a route belongs to: those behind it, else the one of its name.
func servicesOf(r *routev3.Route) []string {
	var names []string
	for _, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
		names = append(names, serviceOf(c.GetName()))
	}
	if c := r.GetRoute().GetCluster(); c != "" {
		names = append(names, serviceOf(c))
	}
	if s := serviceOf(r.GetName()); len(names) == 0 && s != "" {
		names = append(names, s)
	}
	return names
}
