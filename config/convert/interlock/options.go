package interlock

import (
	"slices"
	"strings"
)

// option is one option of Interlock and what becomes of it.
type option struct {
	name string
	// standards is what UCP printed as default, as text: it counts as not said, and so
	// does a blank value. A list is written with commas.
	standards []string
	// like tells further values that count as not said.
	like func(raw any) bool

	to   string // the key that it becomes, "" where there is none
	read func(v value)

	// Without read: the notice for every other value.
	without, instead string
	lost             bool
	// always is a notice for the standard value, which has a consequence all the same.
	always string
}

func (o option) standard(raw any) bool {
	if blank(raw) {
		return true
	}
	t, ok := scalar(raw)
	if !ok {
		list, _ := texts(raw)
		t = strings.Join(list, ",")
	}
	return slices.ContainsFunc(o.standards, func(s string) bool { return strings.EqualFold(s, t) }) || o.like != nil && o.like(raw)
}

// Section is one table of config.toml.
type Section struct {
	Place   string
	options []option
}

// Sections is every option, by where it stands.
var Sections = []Section{
	{"the top level", coreOptions},
	{"[Extensions.<name>]", extensionOptions},
	{"[Extensions.<name>.Config]", proxyOptions},
}

const (
	drop       = "drop it"
	noProcess  = "there is no extension service, so this has no effect"
	noNginx    = "this tells the old proxy something that Envoy has no use for"
	rawOptions = "these are lines for nginx or HAProxy, which Envoy cannot read"
)

// coreOptions stand at the top of the file.
var coreOptions = []option{
	{name: "ListenAddr", standards: []string{":8080", "8080"}, to: "xds.address", read: func(v value) {
		if t, ok := v.text("an address such as :18000"); ok {
			if !strings.Contains(t, ":") {
				t = ":" + t
			}
			v.c.file.xds = &xds{Address: t}
			v.c.said("xds.address", v.line)
		}
	}},
	{name: "GRPCAddr", standards: []string{":8080", "8080"}, to: "xds.address", read: func(v value) {
		if t, ok := v.text("an address such as :18000"); ok && v.c.file.xds == nil {
			v.c.file.xds = &xds{Address: t}
			v.c.said("xds.address", v.line)
		}
	}},
	{name: "DockerURL", standards: []string{"unix:///var/run/docker.sock"}, to: "swarm.host", read: func(v value) {
		if t, ok := v.text("where the Docker Engine listens, such as unix:///var/run/docker.sock"); ok {
			v.c.swarm().Host = t
			v.c.said("swarm.host", v.line)
		}
	}},
	{name: "TLSCACert", without: "the files of the connection to Docker are found by their directory", instead: "set DOCKER_CERT_PATH to the directory with ca.pem, cert.pem and key.pem"},
	{name: "TLSCert", without: "the files of the connection to Docker are found by their directory", instead: "set DOCKER_CERT_PATH to the directory with ca.pem, cert.pem and key.pem"},
	{name: "TLSKey", without: "the files of the connection to Docker are found by their directory", instead: "set DOCKER_CERT_PATH to the directory with ca.pem, cert.pem and key.pem"},
	{name: "AllowInsecure", standards: []string{"false"}, without: "Docker's certificate is always checked", instead: "put its authority into ca.pem under DOCKER_CERT_PATH"},
	{name: "PollInterval", standards: []string{"3s"}, to: "swarm.poll_interval", read: pollInterval},
	{name: "EndpointOverride", without: "proxies are told the address when they start", instead: "start them with `waggle envoy --xds HOST:PORT`"},
	{name: "EnableMetrics", standards: []string{"true"}, without: "metrics are always there, at /metrics of the admin address", instead: drop},
}

// extensionOptions stand in the table of an extension.
var extensionOptions = []option{
	{name: "Image", like: interlockImage, without: noProcess, instead: drop},
	{name: "Args", standards: []string{"-D"}, without: noProcess, instead: drop},
	{name: "ServiceName", like: prefixed("ucp-interlock-extension", "interlock-ext"), without: noProcess, instead: drop},
	{name: "Labels", like: instanceID, without: noProcess, instead: "write labels of the proxies as ProxyLabels"},
	{name: "ContainerLabels", like: instanceID, without: noProcess, instead: "write labels of the proxies as ProxyContainerLabels"},
	{name: "Constraints", like: onlyUCP, without: noProcess, instead: "place the proxies by ProxyConstraints"},
	{name: "PlacementPreferences", without: noProcess, instead: "place the proxies by ProxyPlacementPreferences"},
	{name: "ServiceCluster", to: "collections.<name>", read: func(v value) {
		if t, ok := v.text("the name of a collection"); ok {
			v.coll.name, v.coll.Default, v.coll.clusterLine = t, false, v.line
		}
	}},
	{name: "Networks", to: "networks", read: func(v value) {
		if list, ok := v.list(); ok {
			v.coll.Networks = list
			v.coll.note("networks", v.line)
		}
	}},
	{name: "ProxyImage", like: interlockImage, to: "fleet.image", read: func(v value) {
		t, ok := v.text("the name of an image")
		switch {
		case !ok:
		case strings.Contains(t, "nginx") || strings.Contains(t, "haproxy") || strings.Contains(t, "interlock"):
			v.notice("this image holds another proxy, so Waggle's own image is used", "name an image with `waggle envoy` in it, or drop the option")
		default:
			v.coll.setFleet("image", t, v.line)
		}
	}},
	{name: "ProxyArgs", to: "fleet.args", read: proxyArgs},
	{name: "ProxyServiceName", standards: []string{"ucp-interlock-proxy"}, to: "fleet.name", read: fleetText("name", "the name of a service")},
	{name: "ProxyConfigPath", standards: []string{"/etc/nginx/nginx.conf", "/usr/local/etc/haproxy/haproxy.cfg"},
		without: "Envoy's file is made inside its container when it starts", instead: drop},
	{name: "ProxyReplicas", standards: []string{"2"}, to: "fleet.replicas", read: fleetNumber("replicas", "a number of replicas")},
	{name: "ProxyStopSignal", standards: []string{"SIGQUIT"}, to: "fleet.stop_signal", read: fleetText("stop_signal", "a signal")},
	{name: "ProxyStopGracePeriod", standards: []string{"5s"}, to: "fleet.stop_grace_period", read: fleetSpan("stop_grace_period")},
	{name: "ProxyConstraints", like: onlyUCP, to: "fleet.constraints", read: proxyConstraints},
	{name: "ProxyPlacementPreferences", to: "fleet.placement_preferences", read: fleetList("placement_preferences")},
	{name: "ProxyUpdateDelay", standards: []string{"0", "0s"}, to: "fleet.update_delay", read: fleetSpan("update_delay")},
	{name: "ProxyLabels", like: instanceID, to: "fleet.labels", read: fleetLabels("labels")},
	{name: "ProxyContainerLabels", like: instanceID, to: "fleet.container_labels", read: fleetLabels("container_labels")},
	{name: "PublishMode", standards: []string{"ingress"}, to: "fleet.publish_mode", read: publishMode,
		always: "behind the ingress network every client has the same address: allow_ips, ip_hash and rate limits by address cannot tell clients apart", instead: "publish the proxies with mode: host"},
	{name: "PublishedPort", standards: []string{"8080", "80"}, to: "fleet.published_http_port", read: func(v value) {
		if p, ok := v.port(); ok {
			v.coll.setFleet("published_http_port", p, v.line)
		}
	}},
	{name: "TargetPort", standards: []string{"80"}, to: "http_port", read: func(v value) { v.listen("http_port") }},
	{name: "PublishedSSLPort", standards: []string{"8443"}, to: "https_public_port, fleet.published_https_port", read: func(v value) {
		p, ok := v.port()
		if !ok {
			return
		}
		v.coll.publishedTLS = p
		v.coll.note("https_public_port", v.line)
		if p != 443 {
			v.coll.setFleet("published_https_port", p, v.line)
		}
	}},
	{name: "TargetSSLPort", standards: []string{"443"}, to: "https_port", read: func(v value) { v.listen("https_port") }},
	{name: "Template", without: "a template is text for nginx, which Envoy cannot read: whatever it adds is not served", instead: "find the label that does the same in docs/labels.md", lost: true},
	{name: "HitlessServiceUpdate", standards: []string{"true", "false"}, without: "a change never restarts a proxy", instead: drop},
	{name: "ConfigImage", like: interlockImage, without: "configuration reaches proxies without a service for it", instead: drop},
	{name: "ConfigServiceName", standards: []string{"ucp-interlock-config"}, without: "configuration reaches proxies without a service for it", instead: drop},
}

func (c *converter) swarm() *swarm {
	if c.file.swarm == nil {
		c.file.swarm = &swarm{}
	}
	return c.file.swarm
}

// listen sets what the proxies listen on.
func (v value) listen(key string) {
	p, ok := v.port()
	if !ok {
		return
	}
	if key == "http_port" {
		v.coll.HTTPPort = p
	} else {
		v.coll.HTTPSPort = p
	}
	v.coll.note(key, v.line)
}
