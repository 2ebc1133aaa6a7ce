//go:build !linux

package envoy

import "syscall"

// attributes: only Linux can tie a child to its parent's life; elsewhere Stop must be called.
func attributes() *syscall.SysProcAttr { return nil }
