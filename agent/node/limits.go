package node

import (
	"log/slog"
	"math"
	"syscall"
)

// ownFiles is what an agent may have open beside its clients' connections: journal, cache, metadata, object store and http.
const ownFiles = 512

// openFiles says at start that connections will run out of descriptors before they come to max.connections. The soft limit
// has been raised to the hard one by the time that a Go program runs.
func openFiles(connections int64, log *slog.Logger) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return
	}
	allowed := int64(min(uint64(limit.Cur), math.MaxInt64))
	if want := connections + ownFiles; want > allowed {
		log.Warn("this process may not open as many files as max.connections asks for: raise the limit (ulimit -n, LimitNOFILE), or lower max.connections",
			"limit", allowed, "want", want, "max.connections", connections)
	}
}
