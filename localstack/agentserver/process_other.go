//go:build !linux

package agentserver

import "syscall"

// processAttributes keeps a terminal's Ctrl-C from the agent: Stop decides.
func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
