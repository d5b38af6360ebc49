package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// errNoAnswer closes a connection whose handler has nothing to say.
var errNoAnswer = errors.New("the handler gave no answer")

// Message makes a line of the table from a function that answers a decoded request at once. Its error closes the
// connection: what a client can be told stands in the response. A frameCap of 0 is 1 MiB.
func Message[Q kmsg.Request](
	min, max int16, frameCap int32, do func(ctx context.Context, r *wire.Request, req Q) (kmsg.Response, error),
) API {
	var q Q
	return API{Key: q.Key(), Min: min, Max: max, FrameCap: frameCap,
		Handle: func(ctx context.Context, r *wire.Request, reply func(wire.Reply)) {
			req, err := decode[Q](r)
			if err != nil {
				reply(refuse(err))
				return
			}
			resp, err := do(ctx, r, req)
			if err != nil {
				reply(refuse(err))
				return
			}
			reply(encode(r, resp))
		}}
}

// Async is Message for functions that answer later: reply is called exactly once, from any goroutine, before or after do
// returns. nil closes the connection. What do keeps of req should be little: the connection's byte budget counts the
// frame, not the message, once do has returned.
func Async[Q kmsg.Request](
	min, max int16, frameCap int32, do func(ctx context.Context, r *wire.Request, req Q, reply func(kmsg.Response)),
) API {
	var q Q
	return API{Key: q.Key(), Min: min, Max: max, FrameCap: frameCap,
		Handle: func(ctx context.Context, r *wire.Request, reply func(wire.Reply)) {
			req, err := decode[Q](r)
			if err != nil {
				reply(refuse(err))
				return
			}
			do(ctx, r, req, func(resp kmsg.Response) {
				if resp == nil {
					reply(refuse(errNoAnswer))
					return
				}
				reply(encode(r, resp))
			})
		}}
}

// decode reads a request's body. kmsg is generated and large: should it panic, the body is malformed all the same.
func decode[Q kmsg.Request](r *wire.Request) (req Q, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s version %d: decoding panicked: %v", kmsg.NameForKey(r.Key), r.Version, p)
		}
	}()
	req = kmsg.RequestForKey(r.Key).(Q)
	req.SetVersion(r.Version)
	if req.IsFlexible() {
		if err := scan(r); err != nil {
			return req, err
		}
	}
	if err := req.ReadFrom(r.Body); err != nil {
		return req, fmt.Errorf("%s version %d: %w", kmsg.NameForKey(r.Key), r.Version, err)
	}
	return req, nil
}
