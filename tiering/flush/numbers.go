package flush

import (
	"errors"
	"fmt"

	"varve.dev/metadata"
)

// Numbers counts the commits of one session. A number is taken once and never given back: whoever has it is committed
// under it, in order, or the session ends. The zero value has committed nothing.
type Numbers struct{ known, taken int64 }

// Take takes the next number.
func (n *Numbers) Take() int64 {
	n.taken++
	return n.taken
}

// Known is the highest number whose commit is known.
func (n *Numbers) Known() int64 { return n.known }

// Idle says that no number is on its way. Only then may a commit without a window take one: commits go in the order of
// their numbers, so it would have to wait for windows that are not stored yet, and can as well go with the first of them.
func (n *Numbers) Idle() bool { return n.known == n.taken }

// Advance says that every number up to to is known to be committed.
func (n *Numbers) Advance(to int64) { n.known = to }

// Next is what follows a reply about a commit.
type Next uint8

const (
	Done  Next = iota // it is committed, and known to be
	Again             // it is not, so far: the same commit, again
	Ask               // nobody knows: ask by a write on the session's row
	Over              // it never will be: the session is over
)

// Replied is what follows the reply to Commit. A lost reply is neither success nor failure; a number that is not the one
// before may mean that an earlier request of the same commit came late.
func Replied(err error) Next {
	switch {
	case err == nil:
		return Done
	case errors.Is(err, metadata.ErrFenced):
		return Over
	case errors.Is(err, metadata.ErrUnavailable):
		return Again
	}
	return Ask
}

// Settled is what follows the reply to Settle for commit c: only an acknowledged write tells. Any number but the two that
// are possible means that the store is not the one we knew.
func Settled(c metadata.Commit, last int64, err error) (Next, error) {
	switch {
	case errors.Is(err, metadata.ErrFenced), errors.Is(err, metadata.ErrConflict):
		return Over, err
	case err != nil:
		return Ask, err
	case last == c.To():
		return Done, nil
	case last == c.From:
		return Again, nil
	}
	return Over, fmt.Errorf("%w: commit %d was settled as %d, want %d or %d", metadata.ErrConflict, c.To(), last, c.From, c.To())
}
