package api

import (
	"time"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/labels"
)

// Problem is one thing wrong with one service.
type Problem = translate.Problem

// Status is one replica of the control plane: GET /api/v1/status.
type Status struct {
	// Replica tells replicas apart; with Started it tells one run from the next.
	Replica  string    `json:"replica"`
	Version  string    `json:"version"`
	Revision string    `json:"revision"`
	Started  time.Time `json:"started"`
	// Now is the replica's own clock: what the ages of its times are counted from.
	Now time.Time `json:"now"`
	// Ready: the first complete picture is published.
	Ready    bool   `json:"ready"`
	NotReady string `json:"not_ready"` // why it is not
	// FromDisk: until then new proxies of these collections are served what was accepted
	// last, at these times.
	FromDisk map[string]time.Time `json:"from_disk,omitempty"`
	// Insecure: proxies are believed what their node ID says.
	Insecure  bool       `json:"insecure"`
	Channel   Channel    `json:"channel"`
	Source    Source     `json:"source"`
	Config    Config     `json:"config"`
	Builds    uint64     `json:"builds"`
	LastBuild *time.Time `json:"last_build"`
	// Held are changes that are not published, because they take too much away for one look at what runs.
	Held []Held `json:"held"`
}

// Held is a change of one collection that waits for a second complete list of what runs.
type Held struct {
	Collection string    `json:"collection"`
	Since      time.Time `json:"since"`
	Reason     string    `json:"reason"`
}

// Channel is how proxies prove who they are.
type Channel struct {
	// CertificateEnds is when the control plane's own certificate does; null without TLS.
	CertificateEnds *time.Time `json:"certificate_ends"`
	// Error says why the newest certificate files are not in use; the ones before are.
	Error string `json:"error"`
	// Refused counts clients since the start that could not prove who they are.
	Refused     uint64 `json:"refused"`
	LastRefusal string `json:"last_refusal"`
}

// Source is where what runs is read from.
type Source struct {
	Name string `json:"name"`
	// Via says where tasks come from now, where a source has more than one place:
	// swarmkit (push) or engine (listed). Fallback is why they do not come by push although they may.
	Via      string `json:"via"`
	Fallback string `json:"fallback"`
	// Stale: something cannot be read, and is served as it was read last.
	Stale bool   `json:"stale"`
	Error string `json:"error"`
	// LastRead is when the picture in force was last known to be right.
	LastRead *time.Time `json:"last_read"`
}

// Config is the operator's file.
type Config struct {
	// Hash is equal in replicas that have the same configuration in force.
	Hash string `json:"hash"`
	// Error says why the newest file is not in force; the one before is.
	Error string `json:"error"`
}

// Collections is GET /api/v1/collections.
type Collections struct {
	Collections []Collection `json:"collections"`
	// Nowhere is what labels mean to publish and no collection takes.
	Nowhere Nowhere `json:"nowhere"`
}

// Nowhere counts services with labels of ours that are in no collection.
type Nowhere struct {
	Services int    `json:"services"`
	Problems Counts `json:"problems"`
}

// Collection is one fleet of proxies and what it is served: also GET /api/v1/collections/{c}.
type Collection struct {
	Name      string   `json:"name"`
	Default   bool     `json:"default"`
	Bind      string   `json:"bind"`
	HTTPPort  uint32   `json:"http_port"`
	HTTPSPort uint32   `json:"https_port"`
	TCPPorts  []uint32 `json:"tcp_ports"`
	UDPPorts  []uint32 `json:"udp_ports"`
	// Published is false until the collection's proxies are served anything.
	Published bool `json:"published"`
	// Generation names the content served: equal in replicas that serve the same, "" before anything is.
	Generation string `json:"generation"`
	// Resources counts what is served, by type.
	Resources map[string]int `json:"resources"`
	Services  int            `json:"services"`
	Endpoints int            `json:"endpoints"`
	Problems  Counts         `json:"problems"`
	Proxies   ProxyCounts    `json:"proxies"`
	// Canary is a change that is being tried; null when there is none. It and Quarantine
	// are this replica's own.
	Canary *Canary `json:"canary"`
	// Quarantine is what is published and not served, because proxies reject it.
	Quarantine []Quarantined `json:"quarantine"`
}

// Canary is a change that some proxies have before the others get it.
type Canary struct {
	Since   time.Time `json:"since"`
	Proxies []string  `json:"proxies"` // node IDs of those that have it
	Changes int       `json:"changes"` // resources
}

// Quarantined is a resource, or a part of one, in whose place proxies are served what they
// accepted before.
type Quarantined struct {
	Kind string `json:"type"`
	Name string `json:"name"`
	// Hosts of a route table that are concerned; empty: all of the resource.
	Hosts []string `json:"hosts"`
	// Closed are those of Hosts that answer 503: what is new about them is who may pass.
	Closed   []string  `json:"closed"`
	Rejected string    `json:"rejected"` // version that is not served
	Serving  string    `json:"serving"`  // version that is; "": nothing
	Since    time.Time `json:"since"`
	Proxies  int       `json:"proxies"` // that rejected it
	Message  string    `json:"message"` // of one of them, without anything that could be secret
}

// Counts of problems by severity.
type Counts struct {
	Error   int `json:"error"`
	Warning int `json:"warning"`
	Info    int `json:"info"`
}

// Add counts one problem.
func (c *Counts) Add(s labels.Severity) {
	switch s {
	case labels.Error:
		c.Error++
	case labels.Warning:
		c.Warning++
	default:
		c.Info++
	}
}

// ProxyCounts are the proxies connected to one replica.
type ProxyCounts struct {
	Connected int `json:"connected"`
	Current   int `json:"current"`   // have acknowledged everything
	Rejecting int `json:"rejecting"` // do not take something of it
}

// Certificates is GET /api/v1/certificates.
type Certificates struct {
	Certificates []Certificate `json:"certificates"`
}

// Certificate is one that a collection has: in its directories, as a Docker secret, or
// the root of the development authority.
type Certificate struct {
	Collection string     `json:"collection"` // "": of every collection
	Source     string     `json:"source"`     // directory, secret or local
	Name       string     `json:"name"`       // of the file or secret
	Hosts      []string   `json:"hosts"`
	Issuer     string     `json:"issuer"`
	Serial     string     `json:"serial"`     // hexadecimal
	NotBefore  *time.Time `json:"not_before"` // null where nothing can be served
	NotAfter   *time.Time `json:"not_after"`
	Rotated    *time.Time `json:"rotated"` // when it took the place of the one before; null: not since the start
	Kept       string     `json:"kept"`    // why this is the one before, and not what is there now
	Error      string     `json:"error"`   // why it is not served
}

// Services is GET /api/v1/services.
type Services struct {
	Services []Service `json:"services"`
}

// Service is one service with labels of ours.
type Service struct {
	Name          string  `json:"name"`
	Collection    string  `json:"collection"` // "": published nowhere
	Routes        []Route `json:"routes"`
	EndpointCount int     `json:"endpoint_count"`
	ProblemCounts Counts  `json:"problem_counts"`
}

// Route is one route of a service.
type Route struct {
	Name    string   `json:"name"`
	Hosts   []string `json:"hosts"` // that it has
	Lost    []string `json:"lost"`  // that it claims and another service has
	Path    string   `json:"path"`
	Cluster string   `json:"cluster"` // "" unless requests go to tasks
	State   string   `json:"state"`   // live, broken, closed or lost
}

// ServiceDetail is GET /api/v1/services/{name}.
type ServiceDetail struct {
	Service
	Endpoints []Endpoint `json:"endpoints"`
	Problems  []Problem  `json:"problems"`
}

// Endpoint is one address that a service's requests go to.
type Endpoint struct {
	Cluster  string `json:"cluster"`
	Address  string `json:"address"`
	Task     string `json:"task"`
	Node     string `json:"node"`
	Slot     int    `json:"slot"`
	Priority uint32 `json:"priority"` // above 0: used only while none below is left
	State    string `json:"state"`
}

// The states of an endpoint.
const (
	EndpointReady    = "ready"     // its task runs and is wanted
	EndpointLeaving  = "leaving"   // Swarm wants its task gone, and no other is left
	EndpointNodeDown = "node_down" // Swarm has lost its node
	EndpointVirtual  = "virtual"   // the service's virtual address
	EndpointUnknown  = "unknown"   // its task has gone since, or was never seen (stack files)
)

// Problems is GET /api/v1/problems.
type Problems struct {
	Problems []Problem `json:"problems"`
}

// Proxies is GET /api/v1/proxies.
type Proxies struct {
	Proxies []Proxy `json:"proxies"`
}

// Proxy is one Envoy connected to this replica.
type Proxy struct {
	NodeID     string    `json:"node_id"`
	Collection string    `json:"collection"`
	Instance   string    `json:"instance"`
	Version    string    `json:"version"` // Envoy's
	Address    string    `json:"address"`
	Connected  time.Time `json:"connected"`
	// Current: it has acknowledged everything there is for it.
	Current bool `json:"current"`
	// Retired: its collection is configured no more; it keeps what it has.
	Retired  bool        `json:"retired"`
	Kinds    []ProxyKind `json:"types"`
	LastNACK *NACK       `json:"last_nack"`
}

// Rejecting reports whether the proxy does not take something that it is served.
func (p Proxy) Rejecting() bool {
	for _, k := range p.Kinds {
		if len(k.Rejected) > 0 {
			return true
		}
	}
	return false
}

// ProxyKind is how far a proxy is with one type of resource.
type ProxyKind struct {
	Kind      string   `json:"type"`
	Sent      string   `json:"sent"`  // version of the table last sent
	ACKed     string   `json:"acked"` // and last acknowledged
	Resources int      `json:"resources"`
	Current   bool     `json:"current"`
	Rejected  []string `json:"rejected"` // what it does not take in its newest version
}

// NACK is a rejected response.
type NACK struct {
	At        time.Time `json:"at"`
	Kind      string    `json:"type"`
	Version   string    `json:"version"`
	Resources []string  `json:"resources"`
	Message   string    `json:"message"` // the proxy's own, without anything that could be secret
}

// Error is every answer that is not 2xx.
type Error struct {
	Error string `json:"error"`
}

// Events of GET /api/v1/events. The stream begins with a Status ("status").
const (
	EventStatus            = "status"
	EventBuild             = "build"              // BuildEvent
	EventSource            = "source"             // FaultEvent
	EventConfig            = "config"             // FaultEvent
	EventProxyConnected    = "proxy_connected"    // ProxyEvent
	EventProxyDisconnected = "proxy_disconnected" // ProxyEvent
	EventProxyRejected     = "proxy_rejected"     // ProxyEvent with NACK
	EventDropped           = "dropped"            // FaultEvent: the reader was too slow, the stream ends
)

// BuildEvent is one build that was published.
type BuildEvent struct {
	At          time.Time      `json:"at"`
	Kind        string         `json:"kind"`        // structure or endpoints
	Collections map[string]int `json:"collections"` // resources changed, by collection
}

// FaultEvent is something that went wrong, or (error "") is right again.
type FaultEvent struct {
	At    time.Time `json:"at"`
	Error string    `json:"error"`
}

// ProxyEvent is something that a proxy did.
type ProxyEvent struct {
	At         time.Time `json:"at"`
	NodeID     string    `json:"node_id"`
	Collection string    `json:"collection"`
	Instance   string    `json:"instance"`
	Version    string    `json:"version"`
	Address    string    `json:"address"`
	NACK       *NACK     `json:"nack,omitempty"`
}
