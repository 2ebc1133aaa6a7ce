package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Tracing is where a collection's proxies send their spans. Without OTLP nothing is
// traced, whatever labels say.
type Tracing struct {
	OTLP        string `yaml:"otlp"`         // collector:4317, or https://collector.example.com:4317
	ServiceName string `yaml:"service_name"` // of the proxies in traces; "" is waggle-<collection>
}

// otlpPort is where collectors listen for OTLP over gRPC.
const otlpPort = 4317

// Collector is the server that OTLP names.
func (t Tracing) Collector() (host string, port uint32, tls bool, err error) {
	text := t.OTLP
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", 0, false, err
	}
	host, port, tls = strings.ToLower(u.Hostname()), otlpPort, u.Scheme == "https"
	if u.Port() != "" {
		n, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil || n == 0 {
			return "", 0, false, fmt.Errorf("%s is not a port", u.Port())
		}
		port = uint32(n)
	}
	if _, err := netip.ParseAddr(host); err != nil && (host == "*" || !hostPattern(host)) {
		return "", 0, false, fmt.Errorf("%q is not a host", host)
	}
	if u.Scheme != "http" && !tls || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", 0, false, errors.New("more than a host and a port is said")
	}
	return host, port, tls, nil
}

func (r *reader) tracing(at string, t Tracing) {
	if t.OTLP == "" {
		if t.ServiceName != "" {
			r.fail(at+".service_name", "no collector is named beside it, so nothing is traced", "set tracing.otlp, or drop the key")
		}
		return
	}
	if _, _, _, err := t.Collector(); err != nil {
		r.fail(at+".otlp", fmt.Sprintf("%q is not where a collector listens for OTLP over gRPC", t.OTLP), "write collector:4317, or https://collector.example.com:4317")
	}
}
