package labels

// streamsKeys: TCP and UDP.
var streamsKeys = section{title: "Below HTTP", keys: []key{
	{name: "tcp_port", class: Match, value: later(called("port of the collection", port)),
		meaning: "A plain TCP route to `port`."},
	{name: "tcp_hosts", class: Match, value: laterHosts(),
		meaning: "With `tcp_port`: by TLS server name."},
	{name: "udp_port", class: Match, value: later(port),
		meaning: "A UDP route to `port`."},
}}
