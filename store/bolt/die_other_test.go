//go:build !linux

package bolt

import "os/exec"

// dieWithParent does nothing: the process ends when its input does.
func dieWithParent(*exec.Cmd) {}
