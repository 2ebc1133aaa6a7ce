// Package xds is how proxies get it: it keeps the Envoy resources of every
// collection and serves them to Envoys over delta ADS.
//
// The way in is [Server.Publish]: what one build changed in one collection. Each
// resource is marshalled and hashed once and its bytes are shared by all streams;
// its version is that hash, so a restarted control plane, or another replica, sends
// a reconnecting proxy nothing that it already has.
//
// The way out is a stream per Envoy: go-control-plane's delta server in front of a
// watcher of our own (stream.go), one per stream. A collection keeps, per kind, a
// table and a log of what changed when; a stream keeps a cursor into the log. What a
// stream has not acknowledged yet piles up in the log and goes out as one, always
// with the newest bytes, so there is no queue and a slow proxy costs nothing.
//
// What may be sent when is in order.go (additions) and retire.go (removals). In
// short: clusters, endpoints, secrets, extensions, listeners, routes; removals the
// other way round, and only when this stream has acknowledged the listeners and
// routes that left them. Listeners and routes wait for the acknowledgement of the
// clusters, but only so long ([Options.Gate]): Envoy withholds it while a cluster
// warms, and one slow cluster must not hold the others. Endpoints never wait.
//
// A proxy gets the secrets that the listeners, clusters, routes and extensions of its own
// collection refer to, and no others, whatever it asks for (secrets.go); what it may make
// us remember is bounded (strangers.go).
//
// A change of more than endpoints is tried with one proxy of the collection before the
// others get it (canary.go). What proxies reject is taken back: quarantine.go has the rule,
// hosts.go what that means for route tables, of which there is one for many services.
//
// Until there is anything to publish, proxies that have nothing may be offered what was
// accepted before this control plane started (offer.go; lastgood keeps it on disk).
//
// Everything of a collection is under that collection's own lock; nothing under it
// blocks, marshals or does I/O. One collection can therefore not delay another.
package xds
