package labels

import (
	"slices"
	"strings"
	"time"
)

const (
	connectTimeout = 500 * time.Millisecond
	idleTimeout    = 10 * time.Minute
	retryCount     = 2
	failTimeout    = 5 * time.Second
	healthInterval = 5 * time.Second
	healthTimeout  = 2 * time.Second
	healthRise     = 1
	healthFall     = 3
)

// Resilience is what section "Resilience" says of a route.
type Resilience struct {
	Timeout        time.Duration // whole request; 0 none
	IdleTimeout    time.Duration
	ConnectTimeout time.Duration
	Retries        uint32

	MaxFails    *uint32 // nil: the default counts; 0: no passive ejection
	FailTimeout time.Duration

	RetryOn       []string // nil: the default words
	RetryMethods  []string // nil: the default ones; empty: none
	PerTryTimeout time.Duration

	HealthPath     string // "": no active checks
	HealthInterval time.Duration
	HealthTimeout  time.Duration
	HealthRise     uint32
	HealthFall     uint32

	MaxConnections     uint32 // this and the next two: 0 is unlimited
	MaxPendingRequests uint32
	MaxRequests        uint32

	SlowStart time.Duration
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
		meaning: "How often a request is sent again. With `prefer_local` the default is 4: the first of them go to the same node."},
	{name: "retry_on", class: Comfort, standard: "connect-failure,refused-stream,reset-before-request",
		standardText: "`connect-failure,refused-stream,reset-before-request` for every method, and `reset` for `retry_methods`",
		value:        use(retryWords, func(t *target, v []string) { t.route.RetryOn = v }),
		meaning:      "What makes the proxy send a request again; one that a task may have seen only where HTTP says that this is safe."},
	{name: "retry_methods", class: Comfort, standard: "GET,HEAD,OPTIONS",
		value:   use(retryMethods, func(t *target, v []string) { t.route.RetryMethods = v }),
		meaning: "The methods that may be sent twice."},
	{name: "per_try_timeout", class: Comfort, standard: "0", standardText: "none",
		value:   use(duration, func(t *target, v time.Duration) { t.route.PerTryTimeout = v }),
		meaning: "How long one attempt may take."},
	{name: "max_fails", class: Comfort, interlock: true, standardText: "1 connection failure or 5 answers of 502–504",
		value:   use(count, func(t *target, v uint32) { t.route.MaxFails = &v }),
		meaning: "Failures after which a task is left alone for `fail_timeout`; sets both counts, 0 switches it off. Never more than half of the tasks."},
	{name: "fail_timeout", class: Comfort, interlock: true, standard: "5s",
		value:   use(positive, func(t *target, v time.Duration) { t.route.FailTimeout = v }),
		meaning: "How long a failing task is left alone."},
	{name: "health_path", class: Comfort,
		value:   use(path, func(t *target, v string) { t.route.HealthPath = v }),
		meaning: "Asks every task for this path now and then."},
	{name: "health_interval", class: Comfort, standard: "5s",
		value:   use(positive, func(t *target, v time.Duration) { t.route.HealthInterval = v }),
		meaning: "Time between two checks of a task."},
	{name: "health_timeout", class: Comfort, standard: "2s",
		value:   use(positive, func(t *target, v time.Duration) { t.route.HealthTimeout = v }),
		meaning: "How long a check may take."},
	{name: "health_rise", class: Comfort, standard: "1",
		value:   use(some, func(t *target, v uint32) { t.route.HealthRise = v }),
		meaning: "Good checks that make a task healthy."},
	{name: "health_fall", class: Comfort, standard: "3",
		value:   use(some, func(t *target, v uint32) { t.route.HealthFall = v }),
		meaning: "Bad checks that make a task unhealthy."},
	{name: "max_connections", class: Comfort, standardText: "unlimited",
		value:   use(some, func(t *target, v uint32) { t.route.MaxConnections = v }),
		meaning: "Connections to the service, per proxy."},
	{name: "max_pending_requests", class: Comfort, standardText: "unlimited",
		value:   use(some, func(t *target, v uint32) { t.route.MaxPendingRequests = v }),
		meaning: "Requests that wait for a connection, per proxy."},
	{name: "max_requests", class: Comfort, standardText: "unlimited",
		value:   use(some, func(t *target, v uint32) { t.route.MaxRequests = v }),
		meaning: "Requests at once, per proxy."},
	{name: "slow_start", class: Comfort, standard: "0", standardText: "none",
		value:   use(duration, func(t *target, v time.Duration) { t.route.SlowStart = v }),
		meaning: "How long a new task's share grows."},
}}

// RetryAlways are the words of retry_on that are safe for every method: the task
// has not seen the request.
var RetryAlways = []string{"connect-failure", "refused-stream", "reset-before-request"}

// RetryGRPC are those that are about the status of a gRPC answer.
var RetryGRPC = []string{"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"}

// The others: the task may have seen the request, so they count for retry_methods alone.
var retryWords = list("list of Envoy's words", word(slices.Concat(RetryAlways, []string{"reset", "5xx", "gateway-error", "retriable-4xx", "envoy-ratelimited"}, RetryGRPC)...))

var retryMethods = kind[[]string]{doc: "list, or `none`", read: func(text string) ([]string, error) {
	if strings.TrimSpace(text) == "none" {
		return []string{}, nil
	}
	return methods.read(text)
}}
