package servers

import "syscall"

// dieWithUs has the kernel kill the child when we die, however that happens.
func dieWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
