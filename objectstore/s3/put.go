package s3

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"varve.dev/objectstore"
	"varve.dev/objectstore/s3api"
)

// putter sends the PUTs. The SDK builds some forty handlers around each request: 500 allocations and a quarter of a
// millisecond, as much as the kernel takes for a small window's bytes, and a flush is one PUT. So the SDK says once where
// the bucket is and how it signs, and keeps the credentials; the request is ours, signed by the SDK's own signer.
type putter struct {
	client      *http.Client
	credentials aws.CredentialsProvider
	signer      *v4.Signer
	base        url.URL // of the bucket; keys are appended
	region      string
}

// unsigned stands for the payload's hash: the checksum that the store proves is under the signature.
const unsigned = "UNSIGNED-PAYLOAD"

// newPutter is nil where the SDK signs in a way of its own (directory buckets, access points of several regions).
func newPutter(ctx context.Context, client *s3.Client, bucket string, credentials aws.CredentialsProvider, h *http.Client) (*putter, error) {
	const key = "varve"
	example, err := s3.NewPresignClient(client).PresignPutObject(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: aws.String(key)})
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(example.URL)
	if err != nil {
		return nil, err
	}
	scope := strings.Split(u.Query().Get("X-Amz-Credential"), "/") // key id, date, region, service, aws4_request
	path, ok := strings.CutSuffix(u.Path, "/"+key)
	if !ok || u.Query().Get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256" || len(scope) < 5 || scope[len(scope)-2] != "s3" {
		return nil, nil
	}
	return &putter{
		client: h, credentials: credentials, base: url.URL{Scheme: u.Scheme, Host: u.Host, Path: path}, region: scope[len(scope)-3],
		signer: v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }), // keys have nothing to escape
	}, nil
}

func (p *putter) put(ctx context.Context, key, full string, body objectstore.Body, verify bool) error {
	op := "put " + key
	upload := s3api.NewUpload(body, verify)
	resp, err := p.send(ctx, full, body, upload)
	if resp != nil {
		defer resp.Body.Close()
	}
	if own := upload.End(); own != nil {
		return fmt.Errorf("%s: read its body: %w", op, own)
	}
	if err != nil {
		var inner *url.Error
		if errors.As(err, &inner) {
			err = inner.Err
		}
		return s3api.Failure{Op: op, Err: err}.Error(ctx)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 == 2 {
		return nil // what it says beside that is of no use, and the status has come
	}
	return refusal(op, resp.StatusCode, answer, err).Error(ctx)
}

// maxAnswer bounds what is read of an answer: S3's errors have some hundred bytes.
const maxAnswer = 64 << 10

func (p *putter) send(ctx context.Context, full string, body objectstore.Body, upload io.Reader) (*http.Response, error) {
	who, err := p.credentials.Retrieve(ctx)
	if err != nil {
		return nil, fmt.Errorf("find credentials: %w", err)
	}
	to := p.base
	to.Path += "/" + full
	req := (&http.Request{
		Method: http.MethodPut, URL: &to, Host: to.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: body.Size(), Body: http.NoBody,
		Header: http.Header{
			"Content-Type":         {"application/octet-stream"},
			"If-None-Match":        {"*"},
			s3api.CRC32CHeader:     {s3api.EncodeCRC32C(body.CRC32C())},
			"X-Amz-Content-Sha256": {unsigned},
			"User-Agent":           {"varve"},
		},
	}).WithContext(ctx)
	if body.Size() > 0 {
		req.Body = io.NopCloser(upload)
	}
	if err := p.signer.SignHTTP(ctx, who, req, unsigned, "s3", p.region, time.Now()); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return p.client.Do(req)
}

// refusal takes an answer apart that is no success.
func refusal(op string, status int, answer []byte, err error) s3api.Failure {
	f := s3api.Failure{Op: op, Status: status, Err: errors.New(http.StatusText(status))}
	var said struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}
	switch {
	case err != nil:
		f.Err = fmt.Errorf("read the answer: %w", err)
	case xml.Unmarshal(answer, &said) == nil:
		f.Code = said.Code
		if said.Message != "" {
			f.Err = errors.New(said.Message)
		}
	}
	return f
}
