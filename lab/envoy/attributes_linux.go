package envoy

import "syscall"

// attributes: its own process group, so that a Ctrl-C in the terminal reaches only us
// and we stop it in order; and the kernel ends it if we cannot.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
