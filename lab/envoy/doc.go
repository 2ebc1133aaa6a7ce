// Package envoy runs real Envoy processes on this machine: found, started, waited
// for, asked through their admin page, and stopped by their own process ID. None
// outlives the process that started it.
package envoy
