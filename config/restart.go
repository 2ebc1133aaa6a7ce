package config

import "reflect"

// RestartOnly names the keys that differ between c and next and that only take effect
// when the control plane starts: what it listens on and what it reads.
func (c *Config) RestartOnly(next *Config) (keys []string) {
	for _, k := range []struct {
		name     string
		old, new any
	}{
		{"xds", c.XDS, next.XDS},
		{"admin", c.Admin, next.Admin},
		{"swarm", c.Swarm, next.Swarm},
		{"state_dir", c.StateDir, next.StateDir},
	} {
		if !reflect.DeepEqual(k.old, k.new) {
			keys = append(keys, k.name)
		}
	}
	return keys
}
