package postgres

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

// guard watches over one connection. When a context ends it closes the socket and does nothing else; in particular pgx's
// cancel request, which it would send over a connection of its own, finds no way out: a cancelled statement may have been
// the next one, and one that waits for a standby has committed already.
type guard struct {
	mu        sync.Mutex
	raw       net.Conn // the last one dialled; nil once it is closed
	connected atomic.Bool
	warning   atomic.Pointer[pgconn.Notice]
}

const guardKey = "guard"

var errNoCancel = errors.New("cancel requests are not sent")

func guardConnection(cc *pgx.ConnConfig) {
	g := &guard{}
	dial := cc.DialFunc
	cc.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if g.connected.Load() {
			return nil, errNoCancel
		}
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.raw = c
		return c, nil
	}
	cc.BuildContextWatcherHandler = func(*pgconn.PgConn) ctxwatch.Handler { return g }
	cc.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			g.warning.Store(n)
		}
	}
	cc.AfterConnect = func(_ context.Context, pc *pgconn.PgConn) error {
		pc.CustomData()[guardKey] = g
		g.connected.Store(true)
		return nil
	}
}

func guardOf(c *pgx.Conn) *guard { return c.PgConn().CustomData()[guardKey].(*guard) }

// usable is asked before a connection is used again. A context that ends when the last reply has come, but is not yet read,
// closes the socket under a statement that succeeds, and pgx takes the connection for a good one.
func usable(_ context.Context, c *pgx.Conn) (bool, error) {
	g := guardOf(c)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.raw != nil, nil
}

// HandleCancel is called when the context of a running statement ends.
func (g *guard) HandleCancel(context.Context) { g.close() }

// HandleUnwatchAfterCancel has nothing to mend: the connection is gone.
func (g *guard) HandleUnwatchAfterCancel() {}

func (g *guard) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.raw != nil {
		g.raw.Close()
		g.raw = nil
	}
}
