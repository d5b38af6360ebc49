// Package s3api is what an S3-compatible server and we agree on, whatever SDK carries it: names, ranges, uploads, and what each error means.
package s3api

import (
	"net"
	"net/http"
	"time"

	"varve.dev/objectstore"
)

// Config opens a store behind either SDK.
type Config struct {
	URL objectstore.URL
	// VerifyLocally hashes every upload on its way out and breaks it off before its last byte if the sum is not the one
	// that was promised. It is for stores that ignore checksums (objectstore.Probe tells); it costs one pass over bytes
	// that are being copied anyway.
	VerifyLocally bool
	// Transport carries the requests; nil takes NewTransport. Stores that must not wait for each other, such as readers
	// of history and the write path, get one each.
	Transport http.RoundTripper
}

// OpenTimeout bounds the search for credentials and the probing request of Open, each.
const OpenTimeout = 10 * time.Second

// NewTransport keeps one pool of HTTP/1.1 connections: a body is a plain stream there, and slow readers do not block
// each other as they do on the one connection of HTTP/2. It sets no deadline for answers; attempts bring their own.
func NewTransport() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		Protocols:   protocols,
		// As many as the uploads and reads that one agent has in flight; more are closed after use.
		MaxIdleConnsPerHost: 128,
		IdleConnTimeout:     50 * time.Second, // below the minute after which load balancers drop a silent connection
		TLSHandshakeTimeout: 5 * time.Second,
		DisableCompression:  true,
	}
}

// CRC32CHeader holds the base64 of the big-endian CRC32C, in requests and answers.
const CRC32CHeader = "X-Amz-Checksum-Crc32c"
