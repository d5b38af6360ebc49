package s3server

import "syscall"

// processAttributes ends the server when we are killed, and keeps a terminal's Ctrl-C from it: Stop decides.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
