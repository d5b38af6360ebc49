// Package s3 keeps objects in a bucket through aws-sdk-go-v2: the driver to take for AWS.
package s3

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"varve.dev/objectstore"
	"varve.dev/objectstore/s3api"
)

// Store is one bucket, or a prefix in it. Each call sends one request, never two; Retry repeats.
type Store struct {
	client *s3.Client
	bucket *string
	names  s3api.Names
	verify bool
	http   *http.Client
	putter *putter // nil: PUTs go through client
}

// Open finds credentials (environment, profile, container, instance), and sends one request that shows whether endpoint,
// bucket and credentials are right. A *objectstore.SetupError says what is not.
func Open(ctx context.Context, cfg s3api.Config) (*Store, error) {
	awsConfig, err := load(ctx, cfg.URL)
	if err != nil {
		return nil, err
	}
	transport := cfg.Transport
	if transport == nil {
		transport = s3api.NewTransport()
	}
	s := &Store{
		bucket: &cfg.URL.Bucket,
		names:  s3api.NewNames(cfg.URL),
		verify: cfg.VerifyLocally,
		// A redirect would be signed for the wrong host: it is an answer, not a way.
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	s.client = s3.NewFromConfig(awsConfig, func(o *s3.Options) {
		o.HTTPClient = plainBodies{s.http}
		o.Retryer = aws.NopRetryer{}
		o.UsePathStyle = cfg.URL.PathStyle
		if cfg.URL.Endpoint != "" {
			o.BaseEndpoint = &cfg.URL.Endpoint
		}
		// We send our own sums; the SDK's would read the body twice over http and chunk it over https.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		// Waiting for "100 Continue" costs each upload a round trip.
		o.ContinueHeaderThresholdBytes = -1
		o.Logger = logging.Nop{}
	})
	if err := s.probe(ctx, cfg.URL); err != nil {
		return s, err
	}
	if s.putter, err = newPutter(ctx, s.client, cfg.URL.Bucket, awsConfig.Credentials, s.http); err != nil {
		return s, fmt.Errorf("%s: find out how requests are signed: %w", s3api.Where(cfg.URL), err)
	}
	return s, nil
}

// plainBodies hides WriteTo of request bodies. The SDK closes a body as soon as the answer's head is there; net/http may
// still look whether it has ended, and the closed body's WriteTo fails, which breaks the connection under the answer.
type plainBodies struct{ *http.Client }

func (c plainBodies) Do(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		req.Body = struct{ io.ReadCloser }{req.Body}
	}
	return c.Client.Do(req)
}

func load(ctx context.Context, u objectstore.URL) (aws.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, s3api.OpenTimeout)
	defer cancel()
	cfg, err := config.LoadDefaultConfig(ctx, func(o *config.LoadOptions) error {
		o.Region = u.Region
		return nil
	})
	if err != nil {
		return cfg, &objectstore.SetupError{Problem: "the AWS configuration cannot be read", Hint: "check AWS_PROFILE and the files in ~/.aws", Err: err}
	}
	if cfg.Region == "" {
		if u.Endpoint == "" {
			return cfg, &objectstore.SetupError{Problem: s3api.Where(u) + ": no region is known", Hint: "add region= to store.url, or set AWS_REGION"}
		}
		cfg.Region = "us-east-1" // what S3-compatible servers call themselves
	}
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		return cfg, &objectstore.SetupError{Problem: s3api.Where(u) + ": no credentials were found", Hint: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE", Err: err}
	}
	return cfg, nil
}

// probe asks for an object that cannot exist. Unlike HEAD of the bucket, the answer has a body, which tells a missing
// bucket from an endpoint that is no S3.
func (s *Store) probe(ctx context.Context, u objectstore.URL) error {
	full, err := s.names.Full("varve-open-" + rand.Text())
	if err != nil {
		return err
	}
	attempt, cancel := context.WithTimeout(ctx, s3api.OpenTimeout)
	defer cancel()
	out, err := s.client.GetObject(attempt, &s3.GetObjectInput{Bucket: s.bucket, Key: &full, Range: aws.String("bytes=0-0")})
	if err == nil {
		out.Body.Close()
		return s3api.AtOpen(ctx, u, nil)
	}
	return s3api.AtOpen(ctx, u, failure("open", err))
}

// Close drops idle connections.
func (s *Store) Close() { s.http.CloseIdleConnections() }

func (s *Store) Put(ctx context.Context, key string, body objectstore.Body) error {
	full, err := s.names.Full(key)
	if err != nil {
		return err
	}
	if err := objectstore.CheckPut(key, body); err != nil {
		return err
	}
	if s.putter != nil {
		return s.putter.put(ctx, key, full, body, s.verify)
	}
	upload := s3api.NewUpload(body, s.verify)
	_, err = s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket:         s.bucket,
		Key:            &full,
		Body:           upload,
		ContentLength:  aws.Int64(body.Size()),
		ChecksumCRC32C: aws.String(s3api.EncodeCRC32C(body.CRC32C())),
		IfNoneMatch:    aws.String("*"),
	}, s3.WithAPIOptions(v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware))
	if own := upload.End(); own != nil {
		return fmt.Errorf("put %s: read its body: %w", key, own)
	}
	return translate(ctx, "put "+key, err)
}

func (s *Store) ReadAt(ctx context.Context, key string, dst []byte, off int64) error {
	if len(dst) == 0 || off < 0 {
		return s3api.ReadNothing(ctx, s, key, off)
	}
	full, err := s.names.Full(key)
	if err != nil {
		return err
	}
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: s.bucket, Key: &full, Range: aws.String(s3api.Range(off, len(dst)))})
	if err != nil {
		return translate(ctx, "get "+key, err)
	}
	defer out.Body.Close()
	return s3api.Fill(ctx, key, dst, off, aws.ToString(out.ContentRange), aws.ToInt64(out.ContentLength), out.Body)
}

func (s *Store) Stat(ctx context.Context, key string) (objectstore.Info, error) {
	full, err := s.names.Full(key)
	if err != nil {
		return objectstore.Info{}, err
	}
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: s.bucket, Key: &full, ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		f := failure("head "+key, err)
		f.Head = true
		return objectstore.Info{}, f.Error(ctx)
	}
	sum, ok := s3api.DecodeCRC32C(aws.ToString(out.ChecksumCRC32C))
	return objectstore.Info{Key: key, Size: aws.ToInt64(out.ContentLength), CRC32C: sum, HasCRC32C: ok}, nil
}

func (s *Store) Delete(ctx context.Context, keys []string) error {
	return s3api.EachDelete(ctx, s.names, keys, s.deleteBatch)
}

func (s *Store) deleteBatch(ctx context.Context, full []string) error {
	ids := make([]types.ObjectIdentifier, len(full))
	for i := range full {
		ids[i].Key = &full[i]
	}
	out, err := s.client.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: s.bucket, Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)}})
	if err != nil {
		return translate(ctx, "delete", err)
	}
	var failed s3api.DeleteErrors
	for _, e := range out.Errors {
		failed.Add(ctx, s3api.Failure{
			Op:     "delete " + s.names.Key(aws.ToString(e.Key)),
			Status: http.StatusOK,
			Code:   aws.ToString(e.Code),
			Err:    errors.New(aws.ToString(e.Message)),
		})
	}
	return failed.Err()
}

func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	return func(yield func(objectstore.Info, error) bool) {
		pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: s.bucket, Prefix: aws.String(s.names.Prefix(prefix))})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(objectstore.Info{}, translate(ctx, "list "+prefix, err))
				return
			}
			for _, o := range page.Contents {
				if !yield(objectstore.Info{Key: s.names.Key(aws.ToString(o.Key)), Size: aws.ToInt64(o.Size)}, nil) {
					return
				}
			}
		}
	}
}

func translate(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	return failure(op, err).Error(ctx)
}

// failure takes the SDK's error apart. Its own text repeats the operation and the request ids: the innermost part is
// what a person needs.
func failure(op string, err error) *s3api.Failure {
	f := &s3api.Failure{Op: op, Err: err}
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) {
		f.Status, f.Err = answer.HTTPStatusCode(), answer.Err
	}
	var send *smithyhttp.RequestSendError
	if errors.As(err, &send) {
		f.Status, f.Err = 0, send.Err
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		f.Code, f.Err = api.ErrorCode(), errors.New(api.ErrorMessage())
	}
	if f.Code == strings.ReplaceAll(http.StatusText(f.Status), " ", "") {
		f.Code = "" // made up by the SDK for an answer without S3's XML in it, or the status says the same
	}
	return f
}
