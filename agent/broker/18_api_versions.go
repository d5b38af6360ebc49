package broker

import (
	"context"
	"regexp"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// apiVersions is API key 18, v0-4.
//
// A version that we do not know is answered in v0 with UNSUPPORTED_VERSION and our own range (KIP-511), so that the client
// can try again. From v3 on the client names itself, in a form that is checked.
func apiVersions(self Self, b *Broker) API {
	const min, max = 0, 4
	names := regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?$`)
	return API{Key: int16(kmsg.ApiVersions), Min: min, Max: max, FrameCap: 64 << 10, Weight: 8,
		Handle: func(_ context.Context, r *wire.Request, reply func(wire.Reply)) {
			resp := kmsg.NewPtrApiVersionsResponse()
			if r.Version < min || r.Version > max {
				resp.ErrorCode = kerr.UnsupportedVersion.Code
				resp.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: r.Key, MinVersion: min, MaxVersion: max}}
				past := *r
				past.Version = 0
				reply(encode(&past, resp))
				return
			}
			req, err := decode[*kmsg.ApiVersionsRequest](r)
			if err != nil {
				reply(refuse(err))
				return
			}
			if r.Version >= 3 && !(names.MatchString(req.ClientSoftwareName) && names.MatchString(req.ClientSoftwareVersion)) {
				resp.ErrorCode = kerr.InvalidRequest.Code
				reply(encode(r, resp))
				return
			}
			resp.ApiKeys = b.ranges()
			describeFeatures(resp, self.Features, r.Version)
			reply(encode(r, resp))
		}}
}

// ranges is the table as clients see it. Produce is advertised from v0 on though v0-2 are refused: librdkafka sends no
// compressed batches to a broker that does not say so (KAFKA-18659).
func (b *Broker) ranges() []kmsg.ApiVersionsResponseApiKey {
	out := make([]kmsg.ApiVersionsResponseApiKey, 0, len(b.keys))
	for _, key := range b.keys {
		a := b.apis[key]
		if key == int16(kmsg.Produce) {
			a.Min = 0
		}
		out = append(out, kmsg.ApiVersionsResponseApiKey{ApiKey: key, MinVersion: a.Min, MaxVersion: a.Max})
	}
	return out
}

// describeFeatures fills in KIP-584's part. Below v4 a range that begins at 0 must be left out: older Java clients die of
// it (KAFKA-17011).
func describeFeatures(resp *kmsg.ApiVersionsResponse, features []Feature, version int16) {
	for _, f := range features {
		if f.Min > 0 || version >= 4 {
			s := kmsg.NewApiVersionsResponseSupportedFeature()
			s.Name, s.MinVersion, s.MaxVersion = f.Name, f.Min, f.Max
			resp.SupportedFeatures = append(resp.SupportedFeatures, s)
		}
		if f.Finalized > 0 {
			fin := kmsg.NewApiVersionsResponseFinalizedFeature()
			fin.Name, fin.MinVersionLevel, fin.MaxVersionLevel = f.Name, f.Finalized, f.Finalized
			resp.FinalizedFeatures = append(resp.FinalizedFeatures, fin)
			resp.FinalizedFeaturesEpoch = 0 // -1, kmsg's default, says that nothing is
		}
	}
}
