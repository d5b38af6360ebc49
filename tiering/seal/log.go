package seal

import (
	"sync"

	"varve.dev/tiering/object"
)

// Log is the unsealed objects whose partitions this agent leads, in the order of session and number.
type Log struct {
	mu      sync.Mutex
	objects []*object.Stored
	bytes   int64
	dirs    int64
	changed chan struct{} // capacity 1
}

// NewLog holds what was there at start.
func NewLog() *Log { return &Log{changed: make(chan struct{}, 1)} }

// Add appends the newest object.
func (l *Log) Add(o *object.Stored) {
	l.mu.Lock()
	l.objects = append(l.objects, o)
	l.bytes += o.Object.Length
	l.dirs += int64(len(o.Directory))
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// Objects is all of them now.
func (l *Log) Objects() []*object.Stored {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*object.Stored(nil), l.objects...)
}

// Size is their number, bytes, and bytes of directories.
func (l *Log) Size() (objects int, bytes, directories int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.objects), l.bytes, l.dirs
}

// replace puts pack, or nothing, in the place of a run.
func (l *Log) replace(run map[*object.Stored]bool, pack *object.Stored) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var kept []*object.Stored
	placed := pack == nil
	for _, o := range l.objects {
		if !run[o] {
			kept = append(kept, o)
			continue
		}
		l.bytes -= o.Object.Length
		l.dirs -= int64(len(o.Directory))
		if !placed {
			kept, placed = append(kept, pack), true
			l.bytes += pack.Object.Length
			l.dirs += int64(len(pack.Directory))
		}
	}
	l.objects = kept
}
