package objectstore

import (
	"fmt"
	"strings"
)

const (
	// maxKeyBytes is S3's bound for a key, the store's prefix included.
	maxKeyBytes = 1024
	// maxPartBytes is the longest file name of the filesystems behind file:// and behind several S3-compatible servers.
	maxPartBytes = 255
)

// CheckKey returns an ErrKey that says what is wrong with key, or nil. Drivers call it with their prefix in front.
func CheckKey(key string) error {
	if key == "" {
		return fmt.Errorf("%w: it is empty", ErrKey)
	}
	if len(key) > maxKeyBytes {
		return fmt.Errorf("%w: %d bytes, at most %d with the store's prefix", ErrKey, len(key), maxKeyBytes)
	}
	for part := range strings.SplitSeq(key, "/") {
		if why := badPart(part); why != "" {
			return fmt.Errorf("%w %q: %s", ErrKey, key, why)
		}
	}
	return nil
}

// CheckPut is what every driver checks before it sends anything.
func CheckPut(key string, body Body) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if size := body.Size(); size < 0 || size > MaxObjectBytes {
		return fmt.Errorf("put %s: %d bytes, an object has 0 to %d", key, size, MaxObjectBytes)
	}
	return nil
}

func badPart(part string) string {
	switch {
	case part == "":
		return "a part is empty"
	case part == "." || part == "..":
		return "a part is . or .."
	case len(part) > maxPartBytes:
		return fmt.Sprintf("a part has %d bytes, at most %d", len(part), maxPartBytes)
	}
	for i := range len(part) {
		if !keyByte(part[i]) {
			return fmt.Sprintf("byte %q is not one of A-Z a-z 0-9 . _ -", part[i])
		}
	}
	return ""
}

func keyByte(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '.' || b == '_' || b == '-'
}
