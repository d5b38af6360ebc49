package group

import (
	"encoding/binary"
	"fmt"
)

// subscriptionTopics reads the topics out of a consumer's protocol metadata: version int16, then an array of strings, which
// every version starts with; what follows is not looked at. It allocates no more than the metadata is long.
func subscriptionTopics(b []byte, add func(topic string)) error {
	if len(b) < 6 {
		return fmt.Errorf("subscription of %d bytes, want at least 6", len(b))
	}
	version, n := int16(binary.BigEndian.Uint16(b)), int32(binary.BigEndian.Uint32(b[2:]))
	b = b[6:]
	if version < 0 {
		return fmt.Errorf("subscription version %d, want 0 or more", version)
	}
	if n < 0 || int(n) > len(b)/2 {
		return fmt.Errorf("subscription to %d topics in %d bytes", n, len(b))
	}
	for i := range n {
		if len(b) < 2 {
			return fmt.Errorf("subscription ends before topic %d of %d", i, n)
		}
		size := int16(binary.BigEndian.Uint16(b))
		if size < 0 || int(size) > len(b)-2 {
			return fmt.Errorf("topic %d of %d bytes in a subscription with %d left", i, size, len(b)-2)
		}
		add(string(b[2 : 2+size]))
		b = b[2+size:]
	}
	return nil
}

// subscribed is what all members together read, or nil if that cannot be known.
func (g *Group) subscribed() map[string]bool {
	if g.protocolType != consumerProtocol {
		return nil
	}
	topics := map[string]bool{}
	for _, m := range g.members {
		if subscriptionTopics(m.metadata(g.protocol), func(t string) { topics[t] = true }) != nil {
			return nil
		}
	}
	return topics
}

// subscribedTo errs on the side of yes in a group of consumers whose metadata we cannot read.
func (g *Group) subscribedTo(topic string) bool {
	if g.topics == nil {
		return g.state != Empty && g.protocolType == consumerProtocol
	}
	return g.topics[topic]
}
