package s3api

import (
	"encoding/base64"
	"encoding/binary"
	"strings"

	"varve.dev/objectstore"
)

// Names maps our keys to those of the bucket.
type Names struct{ prefix string }

func NewNames(u objectstore.URL) Names {
	if u.Prefix == "" {
		return Names{}
	}
	return Names{u.Prefix + "/"}
}

// Full is the key in the bucket, or an ErrKey.
func (n Names) Full(key string) (string, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return "", err
	}
	full := n.prefix + key
	return full, objectstore.CheckKey(full)
}

// Prefix is a listing's prefix in the bucket. It need not end where a part ends.
func (n Names) Prefix(prefix string) string { return n.prefix + prefix }

// Key undoes Full.
func (n Names) Key(full string) string { return strings.TrimPrefix(full, n.prefix) }

// EncodeCRC32C is a checksum as headers carry it.
func EncodeCRC32C(sum uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

// DecodeCRC32C reads a header. It is false for a missing one and for the checksum of checksums of a multipart upload.
func DecodeCRC32C(header string) (uint32, bool) {
	if len(header) != base64.StdEncoding.EncodedLen(4) {
		return 0, false // the decoder passes over line ends, and a header has none
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(header)
	if err != nil || len(raw) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(raw), true
}
