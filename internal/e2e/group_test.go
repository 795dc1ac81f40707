//go:build e2e

package e2e

import (
	"os/exec"
	"syscall"
)

// inOwnGroup makes the end of cmd the end of its children, too: a browser has many.
func inOwnGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
