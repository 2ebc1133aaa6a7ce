package labels

// Answers is what section "Answers from the proxy" says of a route.
type Answers struct{}

// answersKeys: what the proxy answers by itself.
var answersKeys = section{title: "Answers from the proxy", keys: []key{
	{name: "redirects", class: Match, interlock: true, value: later(redirects),
		meaning: "Answers 302 to dst with the request's path and query; `src` need not be in `hosts`."},
	{name: "redirect", class: Match, value: later(link),
		meaning: "This route redirects there."},
	{name: "redirect_code", class: Comfort, standard: "302", value: later(code(301, 302, 303, 307, 308)),
		meaning: "The status of `redirect` and `redirects`."},
	{name: "ssl_only", class: Guard, interlock: true, standard: "false", value: later(boolean),
		meaning: "Plain HTTP answers 308 to https."},
	{name: "respond", class: Match, value: later(pair("`status[,text]`", false, respondStatus, anything)),
		meaning: "A fixed answer, for maintenance."},
}}
