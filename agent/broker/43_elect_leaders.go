package broker

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/session"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// ElectLeaders (key 43), v0–2. A preferred election is never needed. An unclean one (v1, type 1) gives up the acknowledged
// tail of partitions that wait for another journal: they start behind a gap, and what was lost is recorded.

// Elector gives tails up (session.Set).
type Elector interface {
	Elect(ctx context.Context, ids []metadata.PartitionID) error
}

const (
	preferredElection = 0
	uncleanElection   = 1
)

// ElectLeaders is the handler of key 43.
func ElectLeaders(topics *catalog.Catalog, led Led, elector Elector) API {
	return Message(0, 2, 0, func(ctx context.Context, r *wire.Request, req *kmsg.ElectLeadersRequest) (kmsg.Response, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Duration(max(req.TimeoutMillis, 1))*time.Millisecond)
		defer cancel()
		unclean := r.Version >= 1 && req.ElectionType == uncleanElection
		image := topics.Image()
		asked := electionsOf(image, req)
		if !unclean && r.Version >= 1 && req.ElectionType != preferredElection {
			for i := range asked {
				asked[i].err = kerr.InvalidRequest
			}
			resp := electionsResponse(asked, false)
			resp.ErrorCode = kerr.InvalidRequest.Code
			return resp, nil
		}
		var elect []metadata.PartitionID
		for i := range asked {
			if asked[i].err = electable(led, asked[i].id, asked[i].err); unclean && errors.Is(asked[i].err, session.ErrWaiting) {
				elect = append(elect, asked[i].id)
			}
		}
		if len(elect) > 0 {
			err := elector.Elect(ctx, elect)
			for i := range asked {
				if errors.Is(asked[i].err, session.ErrWaiting) {
					asked[i].err = err
				}
			}
		}
		return electionsResponse(asked, req.Topics == nil), nil
	})
}

type election struct {
	topic string
	id    metadata.PartitionID
	err   error
}

func electionsOf(image *catalog.Image, req *kmsg.ElectLeadersRequest) (asked []election) {
	if req.Topics == nil {
		for _, t := range image.Topics {
			for i := range t.Partitions {
				asked = append(asked, election{t.Name, metadata.PartitionID{Topic: t.Num, Partition: i}, nil})
			}
		}
		return asked
	}
	for i := range req.Topics {
		q := &req.Topics[i]
		t := image.ByName(q.Topic)
		for _, p := range q.Partitions {
			e := election{topic: q.Topic, id: metadata.PartitionID{Topic: -1, Partition: p}, err: kerr.UnknownTopicOrPartition}
			if t != nil && p >= 0 && p < t.Partitions {
				e.id.Topic, e.err = t.Num, nil
			}
			asked = append(asked, e)
		}
	}
	return asked
}

// electable: a partition that is led needs no election.
func electable(led Led, id metadata.PartitionID, err error) error {
	if err != nil {
		return err
	}
	if _, err = led.Get(id); err == nil {
		return kerr.ElectionNotNeeded
	}
	return err
}

func electionsResponse(asked []election, all bool) *kmsg.ElectLeadersResponse {
	resp := kmsg.NewPtrElectLeadersResponse()
	for _, e := range asked {
		if n := len(resp.Topics); n == 0 || resp.Topics[n-1].Topic != e.topic {
			t := kmsg.NewElectLeadersResponseTopic()
			t.Topic = e.topic
			resp.Topics = append(resp.Topics, t)
		}
		if all && errors.Is(e.err, kerr.ElectionNotNeeded) {
			continue // Kafka leaves the partition out, not its topic, where all are asked for
		}
		t := &resp.Topics[len(resp.Topics)-1]
		p := kmsg.NewElectLeadersResponseTopicPartition()
		p.Partition, p.ErrorCode, p.ErrorMessage = e.id.Partition, Code(e.err), text(e.err)
		t.Partitions = append(t.Partitions, p)
	}
	return resp
}
