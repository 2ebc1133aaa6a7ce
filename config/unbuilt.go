package config

import "errors"

// unbuilt looks at the keys that the format has and this version does not serve.
// One that is used gives a notice.
func (r *reader) unbuilt(c *Config) []Notice {
	var notices []Notice
	without := func(used bool, key, instead string) {
		if used {
			notices = append(notices, Notice{Where: r.at(key), Key: key, Text: "this is not built yet and has no effect", WayOut: instead})
		}
	}
	if len(c.Swarm.ComposeProjects) > 0 && c.Swarm.Source != "compose" {
		notices = append(notices, Notice{
			Where: r.at("swarm.compose_projects"), Key: "swarm.compose_projects",
			Text: "only the source compose reads this, so it has no effect", WayOut: "set swarm.source: compose, or drop the key",
		})
	}
	for _, name := range c.Order {
		at, coll := "collections."+name+".", c.Collections[name]
		without(len(coll.TCPPorts) > 0, at+"tcp_ports", "nothing listens there")
		without(len(coll.UDPPorts) > 0, at+"udp_ports", "nothing listens there")
		without(coll.Routes == "vhds", at+"routes", "rds is used")
		without(len(coll.Fleet) > 0, at+"fleet", "run the proxies as a service of your own")
	}
	return notices
}

// Servable says whether a control plane may serve this configuration: the
// channel needs TLS, or the word of the operator that it goes without.
func (c *Config) Servable() error {
	if c.XDS.TLS == nil && !c.XDS.Insecure {
		return errors.New("the channel to the proxies has no TLS: give xds.tls {ca, cert, key} (`waggle ca init` and `waggle ca issue` make them), or, only on a network of its own, xds.insecure: true (WAGGLE_XDS_INSECURE=true)")
	}
	return nil
}
