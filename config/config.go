// Package config is the operator's file, waggle.yml: read, defaulted, checked,
// and overridden by WAGGLE_… environment variables. Every key of the file is a
// field here, so that an unknown one is an error with a suggestion.
//
// Label keys under defaults and required stay strings; translate/labels checks them.
package config

import "time"

// Config is the whole of waggle.yml, with every default filled in.
type Config struct {
	XDS           XDS      `yaml:"xds"`
	Admin         Admin    `yaml:"admin"`
	Swarm         Swarm    `yaml:"swarm"`
	LabelPrefixes []string `yaml:"label_prefixes"` // in order of precedence, without the trailing dot
	StateDir      string   `yaml:"state_dir"`

	// Collections by name. Never empty: without a file there is one, "default".
	Collections map[string]*Collection `yaml:"collections"`
	// Order lists the collections as the file does; without effect on what is published.
	Order []string `yaml:"-" json:"-"`
}

// XDS is where proxies connect.
type XDS struct {
	Address  string `yaml:"address"`
	TLS      *TLS   `yaml:"tls"`
	Insecure bool   `yaml:"insecure"` // no TLS, the node ID is believed: for a laptop
}

// TLS names the files of the channel's own identity.
type TLS struct {
	CA   string `yaml:"ca"`
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Admin is the HTTP address of the API, health and metrics.
type Admin struct {
	Address   string `yaml:"address"`
	Token     string `yaml:"-" json:"-"` // content of token_file
	TokenFile string `yaml:"token_file"`
}

// Swarm is where what runs is read from.
type Swarm struct {
	Source          string        `yaml:"source"` // auto, swarmkit, engine or compose
	Host            string        `yaml:"host"`
	ControlSocket   string        `yaml:"control_socket"`
	ComposeProjects []string      `yaml:"compose_projects"`
	PollInterval    time.Duration `yaml:"poll_interval"`
	Courier         *Courier      `yaml:"courier"` // nil: there is none
}

// Courier is how Docker secrets that are not mounted into the control plane get to it:
// by jobs that it makes for the purpose.
type Courier struct {
	Image   string `yaml:"image"`   // of the job: Waggle's own
	Network string `yaml:"network"` // an overlay that the control plane is on
	Listen  string `yaml:"listen"`  // where the jobs deliver
}

// Collection is one fleet of proxies and what it publishes.
type Collection struct {
	Name             string              `yaml:"-"`
	Default          bool                `yaml:"default"`
	Bind             string              `yaml:"bind"`
	HTTPPort         uint32              `yaml:"http_port"`
	HTTPSPort        uint32              `yaml:"https_port"`
	HTTPSPublicPort  uint32              `yaml:"https_public_port"`
	HTTP3            bool                `yaml:"http3"`
	Certificates     Certificates        `yaml:"certificates"`
	TCPPorts         []uint32            `yaml:"tcp_ports"`
	UDPPorts         []uint32            `yaml:"udp_ports"`
	Networks         []string            `yaml:"networks"`
	AccessLabels     []string            `yaml:"access_labels"`
	MatchConstraints []string            `yaml:"match_constraints"`
	TrustedProxies   []string            `yaml:"trusted_proxies"`
	ProxyProtocol    bool                `yaml:"proxy_protocol"`
	ShareHosts       string              `yaml:"share_hosts"` // owner or any
	HostOwners       map[string][]string `yaml:"host_owners"`
	AccessLog        bool                `yaml:"access_log"`
	Tracing          Tracing             `yaml:"tracing"`
	Routes           string              `yaml:"routes"` // rds or vhds
	Defaults         map[string]string   `yaml:"defaults"`
	Required         map[string]string   `yaml:"required"`
	Fleet            map[string]any      `yaml:"fleet" json:"-"`
}

// Certificates names where a collection's key material comes from.
type Certificates struct {
	Directories []string `yaml:"directories"`
	Secrets     []string `yaml:"secrets"`
	Default     string   `yaml:"default"`
}
