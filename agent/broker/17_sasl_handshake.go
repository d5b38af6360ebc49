package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// SASLHandshake makes API key 17, v0-1, for listeners without authentication: Kafka says ILLEGAL_SASL_STATE there and
// leaves the connection open.
func SASLHandshake() API {
	return Message(0, 1, 64<<10, func(context.Context, *wire.Request, *kmsg.SASLHandshakeRequest) (kmsg.Response, error) {
		resp := kmsg.NewPtrSASLHandshakeResponse()
		resp.ErrorCode, resp.SupportedMechanisms = kerr.IllegalSaslState.Code, []string{}
		return resp, nil
	})
}
