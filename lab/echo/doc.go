// Package echo is a task that says what reached it: the program behind every
// service of the lab, and the main program of the containers that the end-to-end
// tests run in a real Swarm.
//
// One TCP port speaks HTTP/1.1, HTTP/2 without TLS (h2c), WebSocket (every message
// comes back) and gRPC health checks, each also over TLS and behind the PROXY protocol:
// how a connection begins says what it is. Every answer names the service and the task
// that gave it, in headers and in its body, so that whoever measures can see who
// answered. Raw TCP and UDP have an echo of their own (ServeTCP, ServeUDP), because
// a port that waits for bytes cannot also be one that waits for HTTP.
package echo
