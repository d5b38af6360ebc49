package sqlmeta

import (
	"encoding/binary"
	"fmt"

	"varve.dev/metadata"
)

// The two lists of a partition's row are packed, big-endian, oldest first: they are read and written whole.
const (
	epochStartSize = 12
	sessionRefSize = 8
)

func packEpochs(in []metadata.EpochStart) []byte {
	out := make([]byte, 0, len(in)*epochStartSize)
	for _, e := range in {
		out = binary.BigEndian.AppendUint32(out, uint32(e.Epoch))
		out = binary.BigEndian.AppendUint64(out, uint64(e.Start))
	}
	return out
}

func unpackEpochs(b []byte) ([]metadata.EpochStart, error) {
	if len(b)%epochStartSize != 0 {
		return nil, fmt.Errorf("epoch history of %d bytes, want a multiple of %d", len(b), epochStartSize)
	}
	var out []metadata.EpochStart
	for ; len(b) > 0; b = b[epochStartSize:] {
		out = append(out, metadata.EpochStart{
			Epoch: int32(binary.BigEndian.Uint32(b)),
			Start: int64(binary.BigEndian.Uint64(b[4:])),
		})
	}
	return out, nil
}

func packRefs(in []metadata.SessionRef) []byte {
	out := make([]byte, 0, len(in)*sessionRefSize)
	for _, r := range in {
		out = binary.BigEndian.AppendUint32(out, uint32(r.Agent))
		out = binary.BigEndian.AppendUint32(out, uint32(r.Epoch))
	}
	return out
}

func unpackRefs(b []byte) ([]metadata.SessionRef, error) {
	if len(b)%sessionRefSize != 0 {
		return nil, fmt.Errorf("unsealed sessions of %d bytes, want a multiple of %d", len(b), sessionRefSize)
	}
	var out []metadata.SessionRef
	for ; len(b) > 0; b = b[sessionRefSize:] {
		out = append(out, metadata.SessionRef{
			Agent: int32(binary.BigEndian.Uint32(b)),
			Epoch: int32(binary.BigEndian.Uint32(b[4:])),
		})
	}
	return out, nil
}
