package labels

import "time"

const (
	connectTimeout = 500 * time.Millisecond
	idleTimeout    = 10 * time.Minute
	retryCount     = 2
	failTimeout    = 5 * time.Second
)

// Resilience is what section "Resilience" says of a route.
type Resilience struct {
	Timeout        time.Duration // whole request; 0 none
	IdleTimeout    time.Duration
	ConnectTimeout time.Duration
	Retries        uint32

	MaxFails    *uint32 // nil: the default counts; 0: no passive ejection
	FailTimeout time.Duration
}

// resilienceKeys: what happens when a task is slow, broken or gone.
var resilienceKeys = section{title: "Resilience", keys: []key{
	{name: "connect_timeout", class: Comfort, standard: "500ms", standardText: "500ms, 2s with `ssl_backend`",
		value:   use(patience, func(t *target, v time.Duration) { t.route.ConnectTimeout = v }),
		meaning: "How long a connection to a task may take; short, because a dead task's address swallows packets instead of refusing."},
	{name: "timeout", class: Comfort, standard: "0",
		value:   use(duration, func(t *target, v time.Duration) { t.route.Timeout = v }),
		meaning: "How long the whole request may take; 0 is without end."},
	{name: "idle_timeout", class: Comfort, standard: "10m",
		value:   use(duration, func(t *target, v time.Duration) { t.route.IdleTimeout = v }),
		meaning: "How long there may be no byte in either direction; 0 is without end."},
	{name: "retries", class: Comfort, standard: "2",
		value:   use(count, func(t *target, v uint32) { t.route.Retries = v }),
		meaning: "How often a request is sent again."},
	{name: "retry_on", class: Comfort, standard: "connect-failure,refused-stream,reset-before-request",
		standardText: "`connect-failure,refused-stream,reset-before-request` for every method, and `reset` for `retry_methods`",
		value: later(list("list of Envoy's words", word("connect-failure", "refused-stream", "reset-before-request", "reset",
			"5xx", "gateway-error", "retriable-4xx", "retriable-status-codes", "retriable-headers", "envoy-ratelimited", "http3-post-connect-failure",
			"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"))),
		meaning: "What makes the proxy send a request again; one that a task may have seen only where HTTP says that this is safe."},
	{name: "retry_methods", class: Comfort, standard: "GET,HEAD,OPTIONS", value: later(either("list, or `none`", list("", word("none")), list("", method))),
		meaning: "The methods that may be sent twice."},
	{name: "per_try_timeout", class: Comfort, standard: "0", standardText: "none", value: later(duration),
		meaning: "How long one attempt may take."},
	{name: "max_fails", class: Comfort, interlock: true, standardText: "1 connection failure or 5 answers of 502–504",
		value:   use(count, func(t *target, v uint32) { t.route.MaxFails = &v }),
		meaning: "Failures after which a task is left alone for `fail_timeout`; sets both counts, 0 switches it off. Never more than half of the tasks."},
	{name: "fail_timeout", class: Comfort, interlock: true, standard: "5s",
		value:   use(positive, func(t *target, v time.Duration) { t.route.FailTimeout = v }),
		meaning: "How long a failing task is left alone."},
	{name: "health_path", class: Comfort, value: later(path),
		meaning: "Asks every task for this path now and then."},
	{name: "health_interval", class: Comfort, standard: "5s", value: later(positive),
		meaning: "Time between two checks of a task."},
	{name: "health_timeout", class: Comfort, standard: "2s", value: later(positive),
		meaning: "How long a check may take."},
	{name: "health_rise", class: Comfort, standard: "1", value: later(some),
		meaning: "Good checks that make a task healthy."},
	{name: "health_fall", class: Comfort, standard: "3", value: later(some),
		meaning: "Bad checks that make a task unhealthy."},
	{name: "max_connections", class: Comfort, standardText: "unlimited", value: later(some),
		meaning: "Connections to the service, per proxy."},
	{name: "max_pending_requests", class: Comfort, standardText: "unlimited", value: later(some),
		meaning: "Requests that wait for a connection, per proxy."},
	{name: "max_requests", class: Comfort, standardText: "unlimited", value: later(some),
		meaning: "Requests at once, per proxy."},
	{name: "slow_start", class: Comfort, standard: "0", standardText: "none", value: later(duration),
		meaning: "How long a new task's share grows."},
}}
