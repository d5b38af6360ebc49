package s3api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"varve.dev/objectstore"
)

// Failure is a request that did not succeed, reduced to what both SDKs know of it.
type Failure struct {
	// Op says what was asked, such as "put wal/aa/1".
	Op string
	// Status is the HTTP status, 0 where no answer came.
	Status int
	// Code is S3's error code; "" where the answer had no body of S3's kind.
	Code string
	// Head marks a request whose answer never has a body, so that only the status speaks.
	Head bool
	Err  error
}

// Error turns a failure into the error that the contract names. It is the only place that knows S3's codes.
func (f Failure) Error(ctx context.Context) error {
	if ctx.Err() != nil {
		// The caller ended it; whatever broke then broke because of that.
		return fmt.Errorf("%s: %w", f.Op, ctx.Err())
	}
	if sentinel := f.sentinel(); sentinel != nil {
		return fmt.Errorf("%s: %w: %s%w", f.Op, sentinel, f.answer(), f.Err)
	}
	if setup := f.setup(); setup != nil {
		return fmt.Errorf("%s: %w", f.Op, setup)
	}
	return fmt.Errorf("%s: %s%w", f.Op, f.answer(), f.Err)
}

func (f Failure) answer() string {
	switch {
	case f.Status == 0:
		return ""
	case f.Code == "":
		return fmt.Sprintf("HTTP %d: ", f.Status)
	}
	return fmt.Sprintf("HTTP %d %s: ", f.Status, f.Code)
}

func (f Failure) sentinel() error {
	switch f.Code {
	case "BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch":
		return objectstore.ErrChecksum
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests":
		return objectstore.ErrThrottled
	case "ConditionalRequestConflict", "OperationAborted":
		// AWS answers 409 while another conditional put of the key is undecided.
		return objectstore.ErrUnavailable
	case "RequestTimeout", "IncompleteBody", "ExpiredToken", "ExpiredTokenException", "InternalError":
		// An expired token is renewed by its provider before the next request.
		return objectstore.ErrUnavailable
	case "NoSuchBucket":
		return nil
	}
	switch {
	case f.Status == 0:
		return objectstore.ErrUnavailable
	case f.Status == http.StatusNotFound && (f.Head || f.Code == "NoSuchKey"):
		return objectstore.ErrNotFound
	case f.Status == http.StatusNotFound && f.Code == "":
		// A proxy that has lost its server answers so. Nobody may take that for a missing object.
		return objectstore.ErrUnavailable
	case f.Status == http.StatusPreconditionFailed:
		return objectstore.ErrExists
	case f.Status == http.StatusRequestedRangeNotSatisfiable:
		return objectstore.ErrRange
	case f.Status == http.StatusTooManyRequests, f.Status == http.StatusServiceUnavailable:
		return objectstore.ErrThrottled
	case f.Status == http.StatusRequestTimeout, f.Status >= 500 && f.Status != http.StatusNotImplemented:
		return objectstore.ErrUnavailable
	}
	return nil
}

const (
	denied = "the object store denies access"
	allow  = "allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket to these credentials (without ListBucket a missing object looks like a denied one)"
)

// setup says what a person must do, for answers that no retry changes.
func (f Failure) setup() *objectstore.SetupError {
	problem, hint := "", ""
	switch f.Code {
	case "NoSuchBucket":
		problem, hint = "the bucket does not exist", "create it, or correct the bucket's name in store.url"
	case "InvalidAccessKeyId", "XAdminUserNotFound": // the second is versitygw's, with 404
		problem, hint = "the object store does not know the access key", "check AWS_ACCESS_KEY_ID"
	case "SignatureDoesNotMatch":
		problem, hint = "the object store refused the signature", "check AWS_SECRET_ACCESS_KEY and the region in store.url"
	case "InvalidToken", "TokenRefreshRequired":
		problem, hint = "the object store refused the session token", "check AWS_SESSION_TOKEN, or renew the credentials"
	case "RequestTimeTooSkewed":
		problem, hint = "this machine's clock differs too much from the object store's", "set the clock"
	case "AuthorizationHeaderMalformed", "InvalidRegion", "PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException":
		problem, hint = "the bucket is in another region", "set region= in store.url to the bucket's region"
	case "AccessDenied", "AllAccessDisabled", "AccountProblem":
		problem, hint = denied, allow
	case "NotImplemented", "MethodNotAllowed":
		problem, hint = "the object store lacks an operation that is needed", "take a store that supports conditional puts and checksums of S3"
	}
	if problem == "" {
		switch f.Status {
		case http.StatusUnauthorized, http.StatusForbidden:
			problem, hint = denied, allow
		case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
			problem, hint = "the endpoint redirects elsewhere", "set endpoint= and region= in store.url to where the bucket is"
		case http.StatusNotImplemented, http.StatusMethodNotAllowed:
			problem, hint = "the object store lacks an operation that is needed", "take a store that supports conditional puts and checksums of S3"
		default:
			return nil
		}
	}
	return &objectstore.SetupError{Problem: problem, Hint: hint, Err: fmt.Errorf("%s%w", f.answer(), f.Err)}
}

// AtOpen explains the answer to Open's probing request, a GET of a key that cannot exist. nil means that all is well.
func AtOpen(ctx context.Context, u objectstore.URL, f *Failure) error {
	if f == nil {
		return notS3(u, errors.New("it returned an object that was never stored"))
	}
	if ctx.Err() != nil {
		return f.Error(ctx)
	}
	var setup *objectstore.SetupError
	switch {
	case f.Status == 0:
		return unreachable(u, f.Err)
	case f.Code == "NoSuchKey":
		return nil
	case f.Code == "":
		return notS3(u, fmt.Errorf("HTTP %d without an error that S3 knows", f.Status))
	case errors.As(f.Error(ctx), &setup):
		setup.Problem = fmt.Sprintf("%s: %s", Where(u), setup.Problem)
		return setup
	}
	return &objectstore.SetupError{
		Problem: Where(u) + ": the object store does not work",
		Hint:    "check it, and store.url; the probing request must be answered with NoSuchKey",
		Err:     fmt.Errorf("%s%w", f.answer(), f.Err),
	}
}

// Where names bucket and endpoint, for people.
func Where(u objectstore.URL) string {
	if u.Endpoint == "" {
		return "bucket " + u.Bucket
	}
	return fmt.Sprintf("bucket %s at %s", u.Bucket, u.Endpoint)
}

func notS3(u objectstore.URL, err error) error {
	return &objectstore.SetupError{
		Problem: Where(u) + ": the endpoint does not speak S3",
		Hint:    "check host and port of endpoint= in store.url; a console or a proxy often listens beside the S3 port",
		Err:     err,
	}
}

func unreachable(u objectstore.URL, err error) error {
	hint := "check that it runs, and endpoint= in store.url"
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &authority), errors.As(err, &host):
		hint = "its certificate is not trusted here; set SSL_CERT_FILE to the authority that signed it, or take the name that is in the certificate"
	case errors.As(err, &record), strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		hint = "it does not speak TLS; write http:// before the host in endpoint="
	}
	return &objectstore.SetupError{Problem: Where(u) + ": the endpoint cannot be reached", Hint: hint, Err: err}
}
