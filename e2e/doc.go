// Package e2e shows that the whole works for real: a Docker Swarm of three nodes,
// an Envoy fleet for each of three collections, and traffic that never stops while
// services are updated, scaled and mislabelled; and what the commands say when they
// cannot run.
//
// The Swarm is the one of make swarm-lab (e2e/swarm-lab/lab.sh): three dockerds in
// namespaces of their own, which needs root. Tests that need it fail without.
package e2e
