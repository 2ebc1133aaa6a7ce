package labels

// tlsKeys: certificates, and TLS between client and proxy.
var tlsKeys = section{title: "TLS", keys: []key{
	{name: "ssl_cert", class: None, interlock: true, value: later(called("name of a secret or file", object)),
		meaning: "The certificate of `hosts`; plain HTTP stays open unless `ssl_only`. One PEM with certificate and key is accepted."},
	{name: "ssl_key", class: None, interlock: true, value: later(called("name of a secret or file", object)),
		meaning: "The key of `ssl_cert`."},
	{name: "ssl_passthrough", class: Guard, interlock: true, standard: "false", value: later(boolean),
		meaning: "Sends TLS by its server name straight to `port`."},
	{name: "tls", class: None, value: later(word("auto", "local")),
		meaning: "A certificate by ACME (`auto`) or from the built-in development CA (`local`)."},
	{name: "tls_min_version", class: Guard, standard: "1.2", value: later(word("1.2", "1.3")),
		meaning: "The lowest TLS version of the hosts."},
	{name: "client_ca", class: Guard, value: later(called("CA certificates: name of a config, secret or file", object)),
		meaning: "Client certificates of these authorities are required."},
	{name: "hsts", class: Comfort, value: later(duration),
		meaning: "Sends Strict-Transport-Security for this long."},
}}
