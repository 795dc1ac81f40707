package bolt

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel kill the process when the test dies, also if it
// is stopped.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
