package broker

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// describeCluster is API key 60, v0-2.
//
//   - v1: the type of endpoint that is meant: 1 brokers, 2 controllers, which have none here
//   - v2: fenced brokers on demand, which we never list: an agent that is fenced is not there
type describeCluster struct {
	self   Self
	agents Agents
}

// DescribeCluster makes API key 60.
func DescribeCluster(self Self, agents Agents) API {
	h := &describeCluster{self, agents}
	return Message(0, 2, 0, h.handle)
}

func (h *describeCluster) handle(_ context.Context, r *wire.Request, req *kmsg.DescribeClusterRequest) (kmsg.Response, error) {
	resp := kmsg.NewPtrDescribeClusterResponse()
	resp.ControllerID, resp.Brokers = -1, []kmsg.DescribeClusterResponseBroker{}
	resp.ClusterAuthorizedOperations = operations(req.IncludeClusterAuthorizedOperations, clusterOperations)
	if err := checkEndpoint(req.EndpointType); err != nil {
		resp.ErrorCode, resp.ErrorMessage = Code(err), text(err)
		return resp, nil
	}
	resp.ClusterID, resp.EndpointType, resp.ControllerID = h.self.Cluster, req.EndpointType, h.self.ID
	for _, n := range place(h.self, nil, h.agents, r.Conn).nodes {
		b := kmsg.NewDescribeClusterResponseBroker()
		b.NodeID, b.Host, b.Port, b.Rack = n.id, n.host, n.port, n.rack
		resp.Brokers = append(resp.Brokers, b)
	}
	return resp, nil
}

func checkEndpoint(kind int8) error {
	switch kind {
	case 1:
		return nil
	case 2:
		return explain(kerr.MismatchedEndpointType, "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER")
	}
	return explain(kerr.UnsupportedEndpointType, fmt.Sprintf("Unsupported endpoint type %d", kind))
}
