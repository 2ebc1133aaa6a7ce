package interlock

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// proxyOptions stand in the Config of an extension: nginx's, then HAProxy's own.
var proxyOptions = []option{
	{name: "Version", without: noNginx, instead: drop},
	{name: "User", standards: []string{"nginx", "www-data"}, without: noNginx, instead: drop},
	{name: "PidPath", standards: []string{"/var/run/proxy.pid", "/var/run/nginx.pid", "/var/run/haproxy.pid"}, without: noNginx, instead: drop},
	{name: "SSLOpts", without: rawOptions, instead: "use the ssl_ and tls_ labels", lost: true},
	{name: "AdminUser", without: "the admin address asks for a token instead", instead: "set admin.token_file"},
	{name: "AdminPass", without: "the admin address asks for a token instead", instead: "set admin.token_file"},
	{name: "Port", standards: []string{"80"}, to: "http_port", read: func(v value) { v.listen("http_port") }},
	{name: "SSLPort", standards: []string{"443"}, to: "https_port", read: func(v value) { v.listen("https_port") }},
	{name: "HTTPVersion", standards: []string{"1.1"}, to: "defaults.protocol", read: httpVersion},
	{name: "MaxConnections", standards: []string{"1024"}, to: "fleet.max_connections", read: fleetNumber("max_connections", "a number of connections")},
	{name: "ConnectTimeout", standards: []string{"600", "5"}, to: "defaults.connect_timeout", read: connectTimeout},
	{name: "SendTimeout", standards: []string{"600"}, to: "defaults.idle_timeout", read: idleTimeout},
	{name: "ReadTimeout", standards: []string{"600"}, to: "defaults.idle_timeout", read: idleTimeout},
	{name: "IPHash", standards: []string{"false"}, to: "defaults.ip_hash", read: func(v value) {
		if on, ok := v.boolean(); ok && on {
			v.coll.setDefault("ip_hash", "true", v.line)
		}
	}},
	{name: "SSLDefaultDHParam", standards: []string{"1024"}, without: "Envoy offers no ciphers that need this", instead: drop},
	{name: "SSLDefaultDHParamPath", without: "Envoy offers no ciphers that need this", instead: drop},
	{name: "SSLVerify", standards: []string{"required"}, without: "Interlock never used this, and it does not switch client certificates on", instead: "set the label client_ca where they are wanted"},
	{name: "WorkerProcesses", standards: []string{"1", "auto"}, to: "fleet.concurrency", read: fleetNumber("concurrency", "a number of workers")},
	{name: "RLimitNoFile", standards: []string{"65535"}, to: "fleet.nofile", read: fleetNumber("nofile", "a number of open files")},
	{name: "SSLCiphers", standards: []string{"HIGH:!aNULL:!MD5"}, without: "Envoy's own choice of ciphers holds, which has only strong ones", instead: drop},
	{name: "SSLProtocols", standards: []string{"TLSv1.2", "TLSv1.2 TLSv1.3"}, read: tlsProtocols},
	{name: "AccessLogPath", standards: []string{"/dev/stdout"}, to: "access_log", read: accessLog},
	{name: "ErrorLogPath", standards: []string{"/dev/stdout", "/dev/stderr"}, without: "Envoy's log goes to its container's standard error", instead: drop},
	{name: "MainLogFormat", like: knownFormat, without: "the access log is JSON with fields of its own", instead: "set access_log: true and read the fields"},
	{name: "TraceLogFormat", like: knownFormat, without: "Interlock could not switch this format on, and the access log is JSON", instead: drop},
	{name: "KeepaliveTimeout", standards: []string{"75s", "75"}, without: "how long idle clients are kept is not a setting", instead: drop},
	{name: "ClientMaxBodySize", to: "defaults.max_body_size", read: maxBody},
	{name: "LargeClientHeaderBuffers", standards: []string{"4 8k"}, without: "headers of up to 60 KiB are taken, whatever this says", instead: drop},
	{name: "ClientHeaderBufferSize", standards: []string{"1k"}, without: noNginx, instead: drop},
	{name: "ClientBodyTimeout", standards: []string{"60s", "60"}, without: "a request whose body stops coming ends by idle_timeout", instead: "set `idle_timeout` under the collection's defaults"},
	{name: "ClientBodyBufferSize", standards: []string{"8k", "16k"}, without: noNginx, instead: drop},
	{name: "UnderscoresInHeaders", standards: []string{"false"}, without: "headers with underscores are dropped, because other servers take them for hyphens", instead: "send them with hyphens", lost: true},
	{name: "HideInfoHeaders", standards: []string{"true", "false"}, without: "addresses of tasks and names of containers are never sent to clients", instead: drop},
	{name: "ServerNamesHashBucketSize", standards: []string{"128"}, without: noNginx, instead: drop},
	{name: "UpstreamZoneSize", standards: []string{"64"}, without: noNginx, instead: drop},
	{name: "GlobalOptions", read: rawLines},
	{name: "HTTPOptions", read: rawLines},
	{name: "TCPOptions", read: rawLines},

	{name: "ClientTimeout", standards: []string{"600"}, to: "defaults.idle_timeout", read: idleTimeout},
	{name: "ServerTimeout", standards: []string{"600"}, to: "defaults.idle_timeout", read: idleTimeout},
	{name: "DefaultOptions", read: rawLines},
}

func httpVersion(v value) {
	switch t, _ := v.text("1.1 or 2"); t {
	case "2", "2.0":
		v.coll.setDefault("protocol", "h2c", v.line)
	case "1.0":
		v.notice("tasks are spoken to in HTTP/1.1, which those of HTTP/1.0 understand", drop)
	default:
		v.lost(quoted(v.raw)+" is no version of HTTP, so 1.1 holds", "write 1.1 or 2")
	}
}

// maxConnect caps what the file says: a dead task's address swallows packets, and
// meanwhile nobody else is asked.
const maxConnect = 5 * time.Second

func connectTimeout(v value) {
	d, ok := v.span()
	switch {
	case !ok:
		return
	case d < time.Millisecond:
		v.unreadable("a time above 0")
		return
	case d > maxConnect:
		v.notice(short(d)+" is capped at 5s: a dead task's address swallows connections instead of refusing them", "write at most 5; without it 500ms hold")
		d = maxConnect
	}
	v.coll.setDefault("connect_timeout", short(d), v.line)
}

func idleTimeout(v value) {
	if d, ok := v.span(); ok && d > 0 {
		v.coll.idle = append(v.coll.idle, idle{v.key, d, v.line})
	} else if ok {
		v.unreadable("a time above 0")
	}
}

var bodySize = regexp.MustCompile(`^[0-9]{1,12}[kKmMgG]?$`)

func maxBody(v value) {
	t, ok := v.text("a size such as 32m")
	switch {
	case !ok:
	case !bodySize.MatchString(t):
		v.unreadable("a size such as 32m")
	case strings.Trim(t, "0kKmMgG") == "": // nginx's word for any size, as without the label
	default:
		v.coll.setDefault("max_body_size", strings.ToLower(t), v.line)
	}
}

func tlsProtocols(v value) {
	t, _ := v.text("TLSv1.2 or TLSv1.3")
	words := strings.FieldsFunc(strings.ToUpper(t), func(r rune) bool { return r == ' ' || r == ',' || r == ':' })
	switch {
	case slices.Contains(words, "TLSV1") || slices.Contains(words, "TLSV1.1") || slices.Contains(words, "SSLV3"):
		v.lost("nothing below TLS 1.2 is spoken", "write TLSv1.2, and update clients that need less")
	case slices.Contains(words, "TLSV1.2"):
	case slices.Contains(words, "TLSV1.3"):
		v.lost("TLS 1.2 is spoken as well", "set the label `tls_min_version: 1.3` on the services that need it (it also closes plain HTTP)")
	default:
		v.unreadable("TLSv1.2 or TLSv1.3")
	}
}

func accessLog(v value) {
	t, ok := v.text("off, or /dev/stdout")
	if !ok || strings.EqualFold(t, "off") {
		return
	}
	v.coll.AccessLog = true
	v.coll.note("access_log", v.line)
	if t != "/dev/stderr" {
		v.notice("the access log goes to the standard output of the proxies' containers", "collect it there")
	}
}

// known are the variables of nginx whose values the access log has too.
var known = []string{"remote_addr", "remote_user", "time_local", "request", "status", "body_bytes_sent", "http_referer", "http_user_agent",
	"http_x_forwarded_for", "request_id", "msec", "request_time", "upstream_connect_time", "upstream_header_time", "upstream_response_time"}

var variable = regexp.MustCompile(`\$\{?([a-z0-9_]+)`)

func knownFormat(raw any) bool {
	t, ok := scalar(raw)
	return ok && !slices.ContainsFunc(variable.FindAllStringSubmatch(t, -1), func(m []string) bool { return !slices.Contains(known, m[1]) })
}

// secretive lines are not shown: HAProxy's "stats auth" holds a password.
var secretive = regexp.MustCompile(`(?i)auth|passw|secret|token`)

// rawLines gives each line of raw configuration its own notice.
func rawLines(v value) {
	list, ok := v.list()
	if !ok {
		return
	}
	for _, line := range list {
		instead := "find the label that does the same in docs/labels.md"
		word, rest, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), ";"), " ")
		switch {
		case strings.Contains(line, "proxy_protocol"):
			instead = "set proxy_protocol: true and trusted_proxies of the collection"
		case word == "set_real_ip_from" || word == "real_ip_header" || word == "real_ip_recursive":
			instead = "set trusted_proxies of the collection"
			if word == "set_real_ip_from" {
				instead = fmt.Sprintf("set trusted_proxies: [%s] of the collection", strings.TrimSpace(rest))
			}
		case strings.HasPrefix(word, "gzip"):
			instead = "set `compression: gzip` under the collection's defaults"
		case word == "client_max_body_size":
			instead = "set `max_body_size` under the collection's defaults"
		}
		if secretive.MatchString(line) {
			line = word + " …"
		}
		v.lost(fmt.Sprintf("%s is a line for nginx or HAProxy, which Envoy cannot read", quoted(line)), instead)
	}
}
