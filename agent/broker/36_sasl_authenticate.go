package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// SASLAuthenticate makes API key 36, v0-2, for listeners without authentication.
func SASLAuthenticate() API {
	return Message(0, 2, 64<<10, func(context.Context, *wire.Request, *kmsg.SASLAuthenticateRequest) (kmsg.Response, error) {
		resp := kmsg.NewPtrSASLAuthenticateResponse()
		resp.ErrorCode = kerr.IllegalSaslState.Code
		resp.ErrorMessage = kmsg.StringPtr("SaslAuthenticate request received on a listener without authentication")
		resp.SASLAuthBytes = []byte{}
		return resp, nil
	})
}
