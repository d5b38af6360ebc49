// Package broker gives requests their meaning: one file per API key, one table, one map from our errors to Kafka's.
package broker

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

const (
	// defaultFrameCap bounds a frame whose API names no bound of its own: 10,000 partitions at 100 bytes.
	defaultFrameCap = 1 << 20
	// defaultWeight is what kmsg makes, at most, of one byte of a frame: an array of the smallest elements that can be
	// said. The fuzz target holds every API of the table to it.
	defaultWeight = 128
)

// API is one line of the table that dispatches and that answers ApiVersions.
type API struct {
	Key, Min, Max int16
	// FrameCap is the largest frame in bytes. 0: 1 MiB.
	FrameCap int32
	// Weight is how many bytes decoding may make of one byte of a frame. 0: 128, which is kmsg's worst.
	Weight int64
	// Handle starts a request of a version in [Min, Max].
	Handle func(ctx context.Context, r *wire.Request, reply func(wire.Reply))
}

// Self is what this agent says of itself.
type Self struct {
	ID      int32  // the broker id that clients see
	Cluster string // the cluster's id in Kafka's form
	Rack    string // "": none
	// Features are KIP-584's: what ApiVersions says that this cluster supports and has switched on.
	Features []Feature
}

// Feature is a range of levels that is supported, and the one that is finalized; 0 is off.
type Feature struct {
	Name                string
	Min, Max, Finalized int16
}

// Broker is the table and nothing else: each handler holds only what it uses.
type Broker struct {
	apis [kmsg.MaxKey + 1]API // Handle nil: unknown
	keys []int16              // of the APIs there are, in order
}

// New makes the table. It adds ApiVersions, which says what the table holds. Two lines for one key are a programmer's
// mistake and panic.
func New(self Self, apis ...API) *Broker {
	b := new(Broker)
	for _, a := range append(apis, apiVersions(self, b)) {
		if b.apis[a.Key].Handle != nil {
			panic(fmt.Sprintf("broker: two handlers for API key %d", a.Key))
		}
		if a.FrameCap == 0 {
			a.FrameCap = defaultFrameCap
		}
		if a.Weight == 0 {
			a.Weight = defaultWeight
		}
		b.apis[a.Key] = a
		b.keys = append(b.keys, a.Key)
	}
	slices.Sort(b.keys)
	return b
}

// Handle implements wire.Handler. An unknown key or version closes the connection, as Kafka does.
func (b *Broker) Handle(ctx context.Context, r *wire.Request, reply func(wire.Reply)) {
	if !b.knows(r.Key, r.Version) {
		reply(refuse(fmt.Errorf("API key %d version %d is not supported", r.Key, r.Version)))
		return
	}
	b.apis[r.Key].Handle(ctx, r, reply)
}

// knows is also true for every version of ApiVersions: one that there is not has an answer of its own.
func (b *Broker) knows(key, version int16) bool {
	if key < 0 || int(key) >= len(b.apis) || b.apis[key].Handle == nil {
		return false
	}
	a := &b.apis[key]
	return version >= a.Min && version <= a.Max || key == int16(kmsg.ApiVersions)
}

// FrameCap is the wire.Config of this table.
func (b *Broker) FrameCap(key, version int16) int32 {
	if !b.knows(key, version) {
		return -1
	}
	return b.apis[key].FrameCap
}

// Weight is the wire.Config of this table.
func (b *Broker) Weight(key int16) int64 { return b.apis[key].Weight }

// refuse closes the connection where there is no answer to give.
func refuse(err error) wire.Reply { return wire.Reply{NoReply: true, Close: true, Err: err} }

// encode makes an answer of a message, in the version of its request.
func encode(r *wire.Request, resp kmsg.Response) wire.Reply {
	resp.SetVersion(r.Version)
	return wire.Reply{Parts: net.Buffers{resp.AppendTo(nil)}}
}
