package agentserver

import "syscall"

// processAttributes ends the agent when we are killed, and keeps a terminal's Ctrl-C from it: Stop decides.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
