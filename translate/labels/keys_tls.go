package labels

import "time"

// TLS is what section "TLS" says of a route. It belongs to the hosts of the route:
// their owner's oldest service decides.
type TLS struct {
	SSLCert, SSLKey string // names of material; "" not said
	Passthrough     bool
	TLS             string // "auto", "local"; "" not said
	MinVersion      string // "1.2", "1.3"; "" not said
	ClientCA        string // name of material; "" not said
	HSTS            time.Duration
}

// tlsKeys: certificates, and TLS between client and proxy.
var tlsKeys = section{title: "TLS", intro: "These keys belong to the host: its owner's oldest service decides. " +
	"Certificates in the directories of the collection serve every host that they cover, without any label.", keys: []key{
	{name: "ssl_cert", class: None, interlock: true, value: use(called("name of a secret or file", object), func(t *target, v string) { t.route.SSLCert = v }),
		meaning: "The certificate of `hosts`; plain HTTP stays open unless `ssl_only`. One PEM with certificate and key is accepted."},
	{name: "ssl_key", class: None, interlock: true, value: use(called("name of a secret or file", object), func(t *target, v string) { t.route.SSLKey = v }),
		meaning: "The key of `ssl_cert`."},
	{name: "ssl_passthrough", class: Guard, interlock: true, standard: "false", value: use(boolean, func(t *target, v bool) { t.route.Passthrough = v }),
		meaning: "Sends TLS by its server name straight to `port`. On plain HTTP the hosts have their `redirects` and nothing else."},
	{name: "tls", class: None, value: use(certificateSource, func(t *target, v string) { t.route.TLS.TLS = v }),
		meaning: "A certificate from the built-in development CA (`local`). By ACME (`auto`): not built yet."},
	{name: "tls_min_version", class: Guard, standard: "1.2", value: use(word("1.2", "1.3"), func(t *target, v string) { t.route.MinVersion = v }),
		meaning: "The lowest TLS version of the hosts. `1.3` implies `ssl_only`."},
	{name: "client_ca", class: Guard, value: use(called("CA certificates: name of a config, secret or file", object), func(t *target, v string) { t.route.ClientCA = v }),
		meaning: "Client certificates of these authorities are required; the task learns the subject from `X-Forwarded-Client-Cert`. Implies `ssl_only`."},
	{name: "hsts", class: Comfort, value: use(duration, func(t *target, v time.Duration) { t.route.HSTS = v }),
		meaning: "Sends Strict-Transport-Security for this long, over TLS alone."},
}}

// certificateSource is where a certificate that nobody names comes from.
var certificateSource = kind[string]{doc: "`auto`, `local`", read: func(text string) (string, error) {
	v, err := word("auto", "local").read(text)
	if err == nil && v == "auto" {
		return "", refuse("name a certificate with `ssl_cert`, or write `local` for the development CA", "is not built yet (ACME)")
	}
	return v, err
}}
