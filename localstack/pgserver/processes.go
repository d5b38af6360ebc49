package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Pause stops every process of the server where it is; connections stay open and nothing answers.
func (s *Server) Pause() error { return s.signalAll(syscall.SIGSTOP) }

// Continue lets them go on.
func (s *Server) Continue() error { return s.signalAll(syscall.SIGCONT) }

// signalAll signals the server and its children by their pids, the parent first so that it starts no more of them.
func (s *Server) signalAll(sig syscall.Signal) error {
	pids, err := s.processes()
	var errs []error
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("signal %d: %w", pid, err))
		}
	}
	return errors.Join(append(errs, err)...)
}

// processes are the server and its children, from /proc.
func (s *Server) processes() ([]int, error) {
	pid := s.cmd.Process.Pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return []int{pid}, fmt.Errorf("list the children of postgres: %w", err)
	}
	pids := []int{pid}
	for field := range strings.FieldsSeq(string(text)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			return pids, fmt.Errorf("list the children of postgres: %w", err)
		}
		pids = append(pids, child)
	}
	return pids, nil
}

// awaitOrphans waits until the children of a killed server have noticed: they hold its shared memory.
func (s *Server) awaitOrphans(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		alive, err := usesFolder(s.dataDir())
		if err != nil || !alive {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("children of the killed postgres still run: %w", ctx.Err())
		}
	}
}

// usesFolder tells whether a process has its working directory in dir, as all of a server's have.
func usesFolder(dir string) (bool, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return false, fmt.Errorf("list processes: %w", err)
	}
	for _, p := range procs {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		if cwd, err := os.Readlink("/proc/" + p.Name() + "/cwd"); err == nil && cwd == dir {
			return true, nil
		}
	}
	return false, nil
}
