//go:build !linux

package launch

import (
	"os"
	"syscall"
)

// attributes: only Linux can tie a child to its parent's life.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func inheritsOrphans() bool { return os.Getpid() == 1 }
