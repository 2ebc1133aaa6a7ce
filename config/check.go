package config

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// minPoll keeps a mistyped interval from being a busy loop against the Engine.
const minPoll = 100 * time.Millisecond

var (
	collectionName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)
	labelPrefix    = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)
)

// ValidCollection reports whether name may name a collection. No such name holds
// a "/": a node ID is split there.
func ValidCollection(name string) bool { return len(name) <= 128 && collectionName.MatchString(name) }

// check says everything that is wrong with c, reads the files that it names and
// brings what can be written in several ways into one.
func (r *reader) check(c *Config) {
	r.address("xds.address", c.XDS.Address)
	r.channel(c.XDS)
	r.admin(&c.Admin)
	r.oneOf("swarm.source", c.Swarm.Source, "auto", "swarmkit", "engine", "compose")
	r.dockerHost("swarm.host", c.Swarm.Host)
	if c.Swarm.PollInterval < minPoll {
		r.fail("swarm.poll_interval", fmt.Sprintf("%v is too short", c.Swarm.PollInterval), "write at least 100ms; 1s is the default")
	}
	r.courier(c)
	if c.StateDir == "" {
		r.fail("state_dir", "this is empty", "name a directory, or drop the key for /var/lib/waggle")
	}
	r.prefixes(c.LabelPrefixes)

	var defaults []string
	access := map[string]string{} // label -> key path that has it
	for _, name := range c.Order {
		coll := c.Collections[name]
		r.collection("collections."+name, coll, c.LabelPrefixes)
		if coll.Default {
			defaults = append(defaults, name)
		}
		for i, label := range coll.AccessLabels {
			key := fmt.Sprintf("collections.%s.access_labels[%d]", name, i)
			label = "/" + strings.Trim(label, "/")
			if first, twice := access[label]; twice {
				r.fail(key, fmt.Sprintf("access label %s is already at %s (%s)", label, first, r.at(first)), "give each access label to one collection")
				continue
			}
			access[label] = key
			coll.AccessLabels[i] = label
		}
	}
	if len(defaults) > 1 {
		r.fail("collections."+defaults[1]+".default", fmt.Sprintf("%s are all marked default: true", strings.Join(defaults, ", ")), "keep it at one")
	}
}

func (r *reader) admin(a *Admin) {
	r.address("admin.address", a.Address)
	if a.TokenFile != "" {
		token, err := readFile(a.TokenFile)
		switch {
		case err != nil:
			r.fail("admin.token_file", "the token cannot be read: "+err.Error(), "write the token into this file, or correct its name")
		case token == "":
			r.fail("admin.token_file", a.TokenFile+" is empty", "write the token into this file")
		}
		a.Token = token
		return
	}
	host, _, err := net.SplitHostPort(a.Address)
	if err == nil && !loopback(host) {
		r.fail("admin.address", a.Address+" can be reached from other machines, and no token is asked for",
			"set admin.token_file, or listen on 127.0.0.1")
	}
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// address checks host:port of a listener of Waggle itself. Port 0 takes any free one.
func (r *reader) address(key, addr string) {
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err == nil && host != "" && host != "localhost" {
		_, err = netip.ParseAddr(host)
	}
	if err != nil {
		r.fail(key, fmt.Sprintf("%q is not an address to listen on", addr), "write IP:PORT, or :PORT for every address")
	}
}

func (r *reader) dockerHost(key, host string) {
	schemes := []string{"unix", "tcp", "http", "https", "npipe"}
	u, err := url.Parse(host)
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.Host+u.Path == "" {
		r.fail(key, fmt.Sprintf("%q is not where a Docker Engine listens", host), "write unix:///var/run/docker.sock or tcp://HOST:PORT")
	}
}

func (r *reader) prefixes(list []string) {
	if len(list) == 0 {
		r.fail("label_prefixes", "there is no prefix, so that no label would be read", "write [com.docker.lb, lb], or drop the key")
	}
	r.words("label_prefixes", list)
	for i, p := range list {
		if p != "" && !labelPrefix.MatchString(p) {
			r.fail(fmt.Sprintf("label_prefixes[%d]", i), fmt.Sprintf("%q is not a label prefix", p),
				"write it in lower case without the last dot, as com.docker.lb")
		}
	}
}

func (r *reader) collection(at string, c *Collection, prefixes []string) {
	if !ValidCollection(c.Name) {
		r.fail(at, fmt.Sprintf("%q is not a collection name", c.Name),
			"use lower case letters and digits, with . _ - only between them, 128 at most")
	}
	if _, err := netip.ParseAddr(c.Bind); err != nil {
		r.fail(at+".bind", fmt.Sprintf("%q is not an IP address", c.Bind), "write 0.0.0.0, :: or an address of the proxies' machines")
	}
	r.ports(at, c)
	r.certificates(at+".certificates", &c.Certificates)
	r.tracing(at+".tracing", c.Tracing)
	r.words(at+".networks", c.Networks)
	r.words(at+".match_constraints", c.MatchConstraints)
	for i, label := range c.AccessLabels {
		if !strings.HasPrefix(label, "/") || strings.Trim(label, "/") == "" {
			r.fail(fmt.Sprintf("%s.access_labels[%d]", at, i), fmt.Sprintf("%q is not an access label", label), "write it from its root, as /dev or /Shared/dev")
		}
	}
	for i, cidr := range c.TrustedProxies {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			wayOut := "write it as 10.0.0.0/8"
			if ip, err := netip.ParseAddr(cidr); err == nil {
				wayOut = fmt.Sprintf("write %s/%d for this one address", ip, ip.BitLen())
			}
			r.fail(fmt.Sprintf("%s.trusted_proxies[%d]", at, i), fmt.Sprintf("%q is not a range of addresses", cidr), wayOut)
		}
	}
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		r.fail(at+".proxy_protocol", "only trusted_proxies may connect then, and there are none", "name their addresses under trusted_proxies, as [10.0.0.0/8]")
	}
	r.oneOf(at+".share_hosts", c.ShareHosts, "owner", "any")
	r.oneOf(at+".routes", c.Routes, "rds", "vhds")
	for _, host := range slices.Sorted(maps.Keys(c.HostOwners)) {
		key := at + ".host_owners." + host
		if !hostPattern(host) {
			r.fail(key, fmt.Sprintf("%q is not a host", host), "write shop.example.com, *.example.com or *, in lower case and without a port")
		}
		if r.words(key, c.HostOwners[host]); len(c.HostOwners[host]) == 0 {
			r.fail(key, "no owner is named", "write the names of the stacks, as [shop]")
		}
	}
	r.keys(at+".defaults", c.Defaults, prefixes)
	r.keys(at+".required", c.Required, prefixes)
}

func (r *reader) ports(at string, c *Collection) {
	used := map[uint32]string{}
	tcp := func(key string, port uint32) {
		switch first, twice := used[port]; {
		case port < 1 || port > 65535:
			r.fail(key, fmt.Sprintf("%d is not a port", port), "use 1 to 65535")
		case twice:
			r.fail(key, fmt.Sprintf("port %d is already %s (%s)", port, first, r.at(first)), "give each listener of a collection its own port")
		default:
			used[port] = key
		}
	}
	tcp(at+".http_port", c.HTTPPort)
	tcp(at+".https_port", c.HTTPSPort)
	// Where it is not said it follows https_port, which was complained of already.
	if p := c.HTTPSPublicPort; p != c.HTTPSPort && (p < 1 || p > 65535) {
		r.fail(at+".https_public_port", fmt.Sprintf("%d is not a port", p), "use 1 to 65535")
	}
	for i, p := range c.TCPPorts {
		tcp(fmt.Sprintf("%s.tcp_ports[%d]", at, i), p)
	}
	clear(used)
	if c.HTTP3 {
		used[c.HTTPSPort] = at + ".https_port"
	}
	for i, p := range c.UDPPorts {
		tcp(fmt.Sprintf("%s.udp_ports[%d]", at, i), p)
	}
}

// certificates refuses names that could lead out of their directories.
func (r *reader) certificates(at string, c *Certificates) {
	r.words(at+".directories", c.Directories)
	r.words(at+".secrets", c.Secrets)
	name := func(key, s string) {
		if strings.ContainsAny(s, `/\`) || strings.Contains(s, "..") {
			r.fail(key, fmt.Sprintf("%q is a path, but the name of a certificate is expected", s), "name a secret, or a file of certificates.directories without its path")
		}
	}
	for i, s := range c.Secrets {
		name(fmt.Sprintf("%s.secrets[%d]", at, i), s)
	}
	name(at+".default", c.Default)
}

// courier checks that the jobs can be made, and that what they bring is not for everybody.
func (r *reader) courier(c *Config) {
	job := c.Swarm.Courier
	if job == nil {
		return
	}
	if job.Listen == "" {
		job.Listen = ":18001"
	}
	r.address("swarm.courier.listen", job.Listen)
	switch {
	case c.XDS.Insecure:
		r.fail("swarm.courier", "xds.insecure is set: whoever asks would get what the courier brings", "give xds.tls instead, or drop swarm.courier")
	case c.Swarm.Source == "compose":
		r.fail("swarm.courier", "swarm.source is compose: a plain Docker has no secrets and no jobs", "drop swarm.courier")
	case job.Image == "":
		r.fail("swarm.courier", "the image of the job is missing", "write Waggle's own, the one that the control plane runs, under swarm.courier.image")
	case job.Network == "":
		r.fail("swarm.courier", "the job's network is missing", "name an overlay network that the control plane is on, under swarm.courier.network")
	}
}

// keys checks that label keys stand without their prefix; what they say is for the label language.
func (r *reader) keys(at string, m map[string]string, prefixes []string) {
	for _, k := range slices.SortedFunc(maps.Keys(m), cmp.Compare) {
		for _, p := range prefixes {
			if bare, ok := strings.CutPrefix(k, p+"."); ok {
				r.fail(at+"."+k, "label keys stand here without their prefix", "write "+bare)
				break
			}
		}
	}
}

// words refuses empty and repeated entries of a list.
func (r *reader) words(at string, list []string) {
	seen := make(map[string]bool, len(list))
	for i, s := range list {
		key := fmt.Sprintf("%s[%d]", at, i)
		if strings.TrimSpace(s) == "" {
			r.fail(key, "this entry is empty", "drop it")
		} else if seen[s] {
			r.fail(key, s+" is there twice", "keep one of the two")
		}
		seen[s] = true
	}
}

func (r *reader) oneOf(key, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	wayOut := "write one of " + strings.Join(allowed, ", ")
	if near := Nearest(value, allowed); near != "" {
		wayOut = fmt.Sprintf("did you mean %s?", near)
	}
	r.fail(key, fmt.Sprintf("%q is unknown here", value), wayOut)
}

// hostPattern reports whether s is a host as the label "hosts" takes it, already in its one form.
func hostPattern(s string) bool {
	if s == "*" {
		return true
	}
	s = strings.TrimPrefix(s, "*.")
	if len(s) > 253 || s == "" {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(c rune) bool {
			return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_'
		}) {
			return false
		}
	}
	return true
}

// channel checks that TLS of the channel is whole: a part of it protects nothing.
func (r *reader) channel(x XDS) {
	if x.TLS == nil {
		return
	}
	for _, f := range []struct{ key, file, holds string }{
		{"ca", x.TLS.CA, "the authority that vouches for proxies"},
		{"cert", x.TLS.Cert, "the control plane's certificate"},
		{"key", x.TLS.Key, "its key"},
	} {
		if f.file == "" {
			r.fail("xds.tls", "the file with "+f.holds+" is missing", "name it in xds.tls."+f.key+"; `waggle ca issue` makes all three")
		}
	}
	if x.Insecure {
		r.fail("xds.insecure", "this contradicts xds.tls", "keep one of the two")
	}
}
