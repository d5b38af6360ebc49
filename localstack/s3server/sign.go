package s3server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// sign adds Signature Version 4 to a request without body and query (AWS: "Create a signed AWS API request"). It spares
// this package an SDK for its two requests.
func sign(req *http.Request, accessKey, secretKey string, now time.Time) {
	const signed = "host;x-amz-content-sha256;x-amz-date"
	stamp, day := now.Format("20060102T150405Z"), now.Format("20060102")
	empty := hexSum("")
	req.Header.Set("X-Amz-Date", stamp)
	req.Header.Set("X-Amz-Content-Sha256", empty)
	canonical := strings.Join([]string{
		req.Method, req.URL.EscapedPath(), "",
		"host:" + req.URL.Host, "x-amz-content-sha256:" + empty, "x-amz-date:" + stamp, "",
		signed, empty,
	}, "\n")
	scope := day + "/" + Region + "/s3/aws4_request"
	text := "AWS4-HMAC-SHA256\n" + stamp + "\n" + scope + "\n" + hexSum(canonical)
	key := []byte("AWS4" + secretKey)
	for _, part := range []string{day, Region, "s3", "aws4_request"} {
		key = mac(key, part)
	}
	req.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s,SignedHeaders=%s,Signature=%x", accessKey, scope, signed, mac(key, text)))
}

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(s))
	return h.Sum(nil)
}
