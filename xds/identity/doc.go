// Package identity decides who may ask for a collection. It guards every RPC of a
// gRPC server ([Guard.ServerOptions]): what does not pass is refused before a handler
// runs, so that nothing is ever remembered of it.
//
// A proxy may speak for the collections that its client certificate names, one URI
// each: spiffe://waggle/collection/<name>, to the byte. Common names, DNS names and
// any other URI count for nothing. Its node ID, COLLECTION or COLLECTION/INSTANCE, must
// name one of them, in every message that has one.
//
// A connection lives no longer than the certificate that opened it, nor than the trust
// in the authority that issued that: when the operator takes an authority out of the
// control plane's bundle, its proxies are cut off. The control plane's own files are
// read again when they change; new ones that do not work leave the old ones in force.
package identity
