//go:build !linux

package s3server

import "syscall"

// processAttributes keeps a terminal's Ctrl-C from the server: Stop decides.
func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
