package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// clientID is what every request says, and what member ids begin with.
	clientID = "compare"
	// answerWithin is when a broker counts as silent.
	answerWithin = 10 * time.Second
	// maxAnswer bounds an answer: some MiB of configs are the largest.
	maxAnswer = 64 << 20
)

var (
	errClosed = errors.New("the broker closed the connection")
	errSilent = errors.New("the broker gave no answer")
)

// link is one connection that speaks frames.
type link struct {
	nc       net.Conn
	sent     int32            // correlation ids given out
	arrived  map[int32][]byte // frames that nobody has taken yet
	sequence []int32          // correlation ids in the order in which they arrived
}

func dial(ctx context.Context, addr string) (*link, error) {
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &link{nc: nc, arrived: map[int32][]byte{}}, nil
}

// frame is a request as bytes, under a fresh correlation id.
func (l *link) frame(req kmsg.Request) (frame []byte, correlation int32) {
	l.sent++
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID))
	return f.AppendRequest(nil, req, l.sent), l.sent
}

// write errors say that the broker has hung up; what was read before still counts.
func (l *link) write(b []byte) { _, _ = l.nc.Write(b) }

// take returns the frame with this correlation id, without the id.
func (l *link) take(correlation int32, within time.Duration) ([]byte, error) {
	if err := l.nc.SetReadDeadline(time.Now().Add(within)); err != nil {
		return nil, errClosed
	}
	for {
		if b, ok := l.arrived[correlation]; ok {
			delete(l.arrived, correlation)
			return b, nil
		}
		b, err := readFrame(l.nc)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, errSilent
		case err != nil:
			return nil, errClosed
		}
		id := int32(binary.BigEndian.Uint32(b))
		l.arrived[id], l.sequence = b[4:], append(l.sequence, id)
	}
}

func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int32(binary.BigEndian.Uint32(head[:]))
	if n < 4 || n > maxAnswer {
		return nil, fmt.Errorf("an answer of %d bytes, want 4 to %d", n, maxAnswer)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// decode reads an answer's body. ApiVersions is the one whose header never has tags.
func decode(req kmsg.Request, version int16, b []byte) (kmsg.Response, error) {
	resp := req.ResponseKind()
	resp.SetVersion(version)
	if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
		if len(b) == 0 || b[0] != 0 {
			return nil, fmt.Errorf("%s v%d: the answer's header has tags: %x", kmsg.NameForKey(req.Key()), version, b[:min(len(b), 16)])
		}
		b = b[1:]
	}
	if err := resp.ReadFrom(b); err != nil {
		return nil, fmt.Errorf("%s v%d: %w in %d bytes: %x", kmsg.NameForKey(req.Key()), version, err, len(b), b[:min(len(b), 200)])
	}
	return resp, nil
}
