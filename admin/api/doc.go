// Package api is the HTTP API of a control plane as others see it: the JSON shapes
// of /api/v1 and a client for them. The control plane's side is in package admin.
//
// Names and shapes are promises: fields may be added, never renamed or removed.
// Lists are never null. Times are RFC 3339, or null where there is none yet.
package api
