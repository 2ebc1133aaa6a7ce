package labels

// Answers is what section "Answers from the proxy" says of a route.
type Answers struct {
	Redirects    []Redirection
	Redirect     string // URL; "" none
	RedirectCode uint32
	SSLOnly      bool
	Respond      *Response
}

// A Response is a fixed answer.
type Response struct {
	Status uint32
	Text   string
}

const redirectCode = 302

// maxResponse is Envoy's own limit for the body of an answer (max_direct_response_body_size_bytes).
const maxResponse = 4096

// answersKeys: what the proxy answers by itself.
var answersKeys = section{title: "Answers from the proxy", keys: []key{
	{name: "redirects", class: Match, interlock: true, value: use(redirects, func(t *target, v []Redirection) { t.route.Redirects = v }),
		meaning: "Answers 302 to dst with the request's path and query; `src` need not be in `hosts`. It takes the whole of `src` on plain HTTP, in place of all that its owner has there."},
	{name: "redirect", class: Match, value: use(link, func(t *target, v string) { t.route.Redirect = v }),
		meaning: "This route redirects there: to this very path if the URL has one, else to the path of the request, whose query stays unless the URL has a query or a fragment. Needs no port."},
	{name: "redirect_code", class: Comfort, standard: "302", value: use(code(301, 302, 303, 307, 308), func(t *target, v uint32) { t.route.RedirectCode = v }),
		meaning: "The status of `redirect` and `redirects`."},
	{name: "ssl_only", class: Guard, interlock: true, standard: "false", value: use(boolean, func(t *target, v bool) { t.route.SSLOnly = v }),
		meaning: "Plain HTTP answers 308 to https."},
	{name: "respond", class: Match, value: use(fixedAnswer, func(t *target, v Response) { t.route.Respond = &v }),
		meaning: "A fixed answer, for maintenance. Needs no port."},
}}
