package sqlmeta

import (
	"context"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Stmt is one statement. Its text is the same for both engines but for four macros that the engine's Dialect expands:
//
//	{rows a int4, b text}  a relation r(a, b), filled from Rows, one slice a column
//	{now}                  the store's clock in milliseconds
//	{share x}, {update x}  row locks on the tables x (all, if x is left out), where the engine has any
//
// Parameters are $1, $2 …; those of the rows follow those of Args.
type Stmt struct {
	SQL  string
	Args []any
	Rows []any // each []int32, []int64, []string, [][]byte or []bool; all of one length
}

// Row is what a result row is scanned from.
type Row interface{ Scan(dest ...any) error }

// Tx runs statements. A statement whose rows are empty is not sent. It must not be kept beyond the call it was made for.
type Tx interface {
	// Lock runs a SELECT … {update} for its locks only. An engine with one writer need not.
	Lock(q Stmt) error
	// Exec answers how many rows were affected.
	Exec(q Stmt) (int64, error)
	// Query calls each for each row of the result.
	Query(q Stmt, each func(Row) error) error
}

// Engine runs transactions. Its errors are the sentinels of metadata where one fits: a write that fails before its commit
// was sent surely did nothing, one whose commit was not answered is metadata.ErrUnknown. The functions may be called
// several times, when the engine rolled back by itself: they must not add to what an earlier call left behind.
type Engine interface {
	// Look runs one statement that only reads.
	Look(ctx context.Context, fn func(Tx) error) error
	// Read runs statements that only read, all in one snapshot.
	Read(ctx context.Context, fn func(Tx) error) error
	// One runs one statement that writes, by itself a transaction.
	One(ctx context.Context, fn func(Tx) error) error
	// Write runs one transaction.
	Write(ctx context.Context, fn func(Tx) error) error
	// Identity names the database and its history: it changes when another database answers, or an older state of it.
	Identity(ctx context.Context) (system string, timeline int64, err error)
	Close() error
}

// Dialect is how an engine spells what the two do not share.
type Dialect struct {
	Param         func(n int) string
	Rows          func(first int, names, types []string) string
	Now           func(param int) string // param is free for a value that the engine binds
	Share, Update string
}

// Expand replaces the macros of q. It tells whether the statement uses the clock.
func (d Dialect) Expand(q Stmt) (sql string, now bool) {
	var out strings.Builder
	rest := q.SQL
	for {
		open := strings.IndexAny(rest, "{$")
		if open < 0 {
			out.WriteString(rest)
			return out.String(), now
		}
		out.WriteString(rest[:open])
		if rest[open] == '$' {
			end := open + 1
			for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
				end++
			}
			n, _ := strconv.Atoi(rest[open+1 : end])
			out.WriteString(d.Param(n))
			rest = rest[end:]
			continue
		}
		length := strings.IndexByte(rest[open:], '}')
		word, arg, _ := strings.Cut(rest[open+1:open+length], " ")
		rest = rest[open+length+1:]
		switch word {
		case "rows":
			names, types := columns(arg)
			out.WriteString(d.Rows(len(q.Args)+1, names, types))
		case "now":
			now = true
			out.WriteString(d.Now(len(q.Args) + len(q.Rows) + 1))
		case "share":
			out.WriteString(lock(d.Share, arg))
		case "update":
			out.WriteString(lock(d.Update, arg))
		default:
			panic("sqlmeta: unknown macro " + word)
		}
	}
}

func columns(list string) (names, types []string) {
	for col := range strings.SplitSeq(list, ",") {
		name, typ, _ := strings.Cut(strings.TrimSpace(col), " ")
		names, types = append(names, name), append(types, typ)
	}
	return names, types
}

func lock(clause, tables string) string {
	if clause == "" || tables == "" {
		return clause
	}
	return clause + " OF " + tables
}

// Height is the number of rows in q's row set; -1 if it has none.
func (q Stmt) Height() int {
	if len(q.Rows) == 0 {
		return -1
	}
	height := reflect.ValueOf(q.Rows[0]).Len()
	for i, col := range q.Rows {
		if n := reflect.ValueOf(col).Len(); n != height {
			panic(fmt.Sprintf("sqlmeta: column %d has %d rows, column 0 has %d", i, n, height))
		}
	}
	return height
}

// Cell is row i of a column.
func Cell(col any, i int) any {
	switch col := col.(type) {
	case []int32:
		return int64(col[i])
	case []int64:
		return col[i]
	case []string:
		return col[i]
	case [][]byte:
		return col[i]
	case []bool:
		return col[i]
	}
	panic(fmt.Sprintf("sqlmeta: column of type %T", col))
}

// column takes one value from each element.
func column[T, V any](in []T, get func(T) V) []V {
	out := make([]V, len(in))
	for i, v := range in {
		out[i] = get(v)
	}
	return out
}

// list collects the rows of a query.
func list[T any](tx Tx, q Stmt, scan func(Row) (T, error)) ([]T, error) {
	var out []T
	err := tx.Query(q, func(r Row) error {
		v, err := scan(r)
		if err == nil {
			out = append(out, v)
		}
		return err
	})
	return out, err
}

// one scans the only row of a query; it tells whether there was one.
func one(tx Tx, q Stmt, dest ...any) (bool, error) {
	found := false
	err := tx.Query(q, func(r Row) error {
		found = true
		return r.Scan(dest...)
	})
	return found, err
}

func scanOne[T any](r Row) (T, error) {
	var v T
	err := r.Scan(&v)
	return v, err
}
