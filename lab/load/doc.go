// Package load asks targets at a fixed rate and counts what comes of it, by outcome
// and by who answered, so that a test can say "0 of 12 000 requests failed while
// this happened" and a failure can be read.
//
// The loop is open: a request begins when its time has come, whether or not earlier
// ones were answered, so that a slow proxy cannot hide behind fewer questions. The
// client keeps connections alive as browsers and services do. Like every Go client
// it sends a GET again by itself when a kept-alive connection closes under it before
// a byte of the answer came; nothing else is retried.
package load
