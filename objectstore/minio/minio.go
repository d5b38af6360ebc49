// Package minio keeps objects in a bucket through minio-go: the driver to take for MinIO and its like.
package minio

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"varve.dev/objectstore"
	"varve.dev/objectstore/s3api"
)

// Store is one bucket, or a prefix in it. Each call sends one request, never two; Retry repeats.
type Store struct {
	client    minio.Core
	bucket    string
	names     s3api.Names
	verify    bool
	transport http.RoundTripper
}

// Open finds credentials (the environment of AWS, then of MinIO, the AWS profile, the instance), and sends one request
// that shows whether endpoint, bucket and credentials are right. A *objectstore.SetupError says what is not.
func Open(ctx context.Context, cfg s3api.Config) (*Store, error) {
	endpoint, err := url.Parse(cfg.URL.Endpoint)
	if err != nil || endpoint.Host == "" {
		return nil, &objectstore.SetupError{Problem: s3api.Where(cfg.URL) + ": no endpoint is given", Hint: "add endpoint=HOST:PORT to store.url"}
	}
	creds, err := findCredentials(cfg.URL)
	if err != nil {
		return nil, err
	}
	s := &Store{bucket: cfg.URL.Bucket, names: s3api.NewNames(cfg.URL), verify: cfg.VerifyLocally, transport: cfg.Transport}
	if s.transport == nil {
		s.transport = s3api.NewTransport()
	}
	client, err := minio.New(endpoint.Host, &minio.Options{
		Creds:        creds,
		Secure:       endpoint.Scheme == "https",
		Transport:    s.transport,
		Region:       region(cfg.URL), // always set: the SDK would ask for it with a request of its own
		BucketLookup: lookup(cfg.URL),
		MaxRetries:   1,
	})
	if err != nil {
		return nil, &objectstore.SetupError{Problem: s3api.Where(cfg.URL) + ": the endpoint is not usable", Hint: "check endpoint= in store.url", Err: err}
	}
	s.client = minio.Core{Client: client}
	return s, s.probe(ctx, cfg.URL)
}

func region(u objectstore.URL) string {
	for _, name := range []string{u.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")} {
		if name != "" {
			return name
		}
	}
	return "us-east-1"
}

func lookup(u objectstore.URL) minio.BucketLookupType {
	if u.PathStyle {
		return minio.BucketLookupPath
	}
	return minio.BucketLookupDNS
}

// findCredentials resolves the chain once: where it finds nothing, the SDK would go on without a signature.
func findCredentials(u objectstore.URL) (*credentials.Credentials, error) {
	chain := []credentials.Provider{&credentials.EnvAWS{}, &credentials.EnvMinio{}, &credentials.FileAWSCredentials{}}
	if !strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true") {
		chain = append(chain, &credentials.IAM{})
	}
	creds := credentials.NewChainCredentials(chain)
	value, err := creds.GetWithContext(&credentials.CredContext{Client: &http.Client{Timeout: s3api.OpenTimeout}})
	if err != nil || value.AccessKeyID == "" {
		return nil, &objectstore.SetupError{
			Problem: s3api.Where(u) + ": no credentials were found",
			Hint:    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or MINIO_ROOT_USER and MINIO_ROOT_PASSWORD",
			Err:     err,
		}
	}
	return creds, nil
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
	body, _, _, err := s.client.GetObject(attempt, s.bucket, full, minio.GetObjectOptions{})
	if err == nil {
		body.Close()
		return s3api.AtOpen(ctx, u, nil)
	}
	return s3api.AtOpen(ctx, u, failure("open", err))
}

// Close drops idle connections.
func (s *Store) Close() {
	if t, ok := s.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

func (s *Store) Put(ctx context.Context, key string, body objectstore.Body) error {
	full, err := s.names.Full(key)
	if err != nil {
		return err
	}
	if err := objectstore.CheckPut(key, body); err != nil {
		return err
	}
	options := minio.PutObjectOptions{
		// Spelt exactly so, the SDK passes our checksum on as a header; its own option would chunk the body.
		UserMetadata:         map[string]string{s3api.CRC32CHeader: s3api.EncodeCRC32C(body.CRC32C())},
		DisableContentSha256: true,
		DisableMultipart:     true,
	}
	options.SetMatchETagExcept("*")
	upload := s3api.NewUpload(body, s.verify)
	_, err = s.client.Client.PutObject(ctx, s.bucket, full, upload, body.Size(), options)
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
	var options minio.GetObjectOptions
	options.Set("Range", s3api.Range(off, len(dst)))
	body, info, header, err := s.client.GetObject(ctx, s.bucket, full, options)
	if err != nil {
		return translate(ctx, "get "+key, err)
	}
	defer body.Close()
	return s3api.Fill(ctx, key, dst, off, header.Get("Content-Range"), info.Size, body)
}

func (s *Store) Stat(ctx context.Context, key string) (objectstore.Info, error) {
	full, err := s.names.Full(key)
	if err != nil {
		return objectstore.Info{}, err
	}
	info, err := s.client.StatObject(ctx, s.bucket, full, minio.StatObjectOptions{Checksum: true})
	if err != nil {
		f := failure("head "+key, err)
		f.Head = true
		return objectstore.Info{}, f.Error(ctx)
	}
	sum, ok := s3api.DecodeCRC32C(info.ChecksumCRC32C)
	return objectstore.Info{Key: key, Size: info.Size, CRC32C: sum, HasCRC32C: ok}, nil
}

func (s *Store) Delete(ctx context.Context, keys []string) error {
	return s3api.EachDelete(ctx, s.names, keys, s.deleteBatch)
}

func (s *Store) deleteBatch(ctx context.Context, full []string) error {
	objects := func(yield func(minio.ObjectInfo) bool) {
		for _, key := range full {
			if !yield(minio.ObjectInfo{Key: key}) {
				return
			}
		}
	}
	results, err := s.client.RemoveObjectsWithIter(ctx, s.bucket, objects, minio.RemoveObjectsOptions{})
	if err != nil {
		return translate(ctx, "delete", err)
	}
	var failed s3api.DeleteErrors
	answered := 0
	for r := range results {
		answered++
		if r.Err != nil {
			failed.Add(ctx, keyFailure("delete "+s.names.Key(r.ObjectName), r.Err))
		}
	}
	if err := ctx.Err(); err != nil { // the SDK ends in silence then
		return fmt.Errorf("delete: %w", err)
	}
	if err := failed.Err(); err != nil || answered == len(full) {
		return err
	}
	// The SDK drops some answers for single keys.
	return fmt.Errorf("delete: the store answered for %d of %d keys", answered, len(full))
}

func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	return func(yield func(objectstore.Info, error) bool) {
		noOwner := false
		options := minio.ListObjectsOptions{Prefix: s.names.Prefix(prefix), Recursive: true, FetchOwner: &noOwner}
		for o := range s.client.ListObjectsIter(ctx, s.bucket, options) {
			if o.Err != nil {
				yield(objectstore.Info{}, translate(ctx, "list "+prefix, o.Err))
				return
			}
			if !yield(objectstore.Info{Key: s.names.Key(o.Key), Size: o.Size}, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil { // the SDK ends in silence then
			yield(objectstore.Info{}, fmt.Errorf("list %s: %w", prefix, err))
		}
	}
}

func translate(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	return failure(op, err).Error(ctx)
}

// failure takes the SDK's error apart. For an answer without S3's XML in it the SDK invents a code out of the status;
// for an answer that it cannot read there is no status.
func failure(op string, err error) *s3api.Failure {
	f := &s3api.Failure{Op: op, Err: err}
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		return f
	}
	f.Status, f.Err = answer.StatusCode, errors.New(answer.Error())
	if answer.XMLName.Local == "Error" {
		f.Code = answer.Code
	}
	if f.Status == 0 {
		f.Status = http.StatusOK
	}
	return f
}

// keyFailure is for one key in the answer to a delete, which has a code and no status.
func keyFailure(op string, err error) s3api.Failure {
	f := failure(op, err)
	var answer minio.ErrorResponse
	if errors.As(err, &answer) && answer.StatusCode == 0 {
		f.Code = answer.Code
	}
	return *f
}
