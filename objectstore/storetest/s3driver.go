package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"varve.dev/objectstore"
	"varve.dev/objectstore/s3api"
)

// S3Driver holds a driver over an SDK to what it sends and to what it makes of every answer, against FakeS3.
func S3Driver(t *testing.T, scheme objectstore.Scheme, open func(context.Context, s3api.Config) (objectstore.Store, error)) {
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	for _, name := range []string{"AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "MINIO_ROOT_USER", "MINIO_ACCESS_KEY", "HTTP_PROXY", "http_proxy"} {
		t.Setenv(name, "")
	}
	cases := []struct {
		name string
		test func(*driver)
	}{
		{"a put is one unsigned unchunked request with our checksum", (*driver).putRequest},
		{"reads and stats are one request each", (*driver).readRequests},
		{"deletes go by the thousand", (*driver).deleteRequests},
		{"memory does not grow with the object", (*driver).memory},
		{"every answer means what the contract says, at once", (*driver).answers},
		{"an answer that ends early is an error", (*driver).shortAnswers},
		{"an early refusal ends the reading of the body", (*driver).earlyRefusal},
		{"cancelling ends a put that hangs", (*driver).hangs},
		{"single keys that cannot be deleted are named", (*driver).deleteErrors},
		{"verify locally stores nothing with a wrong sum", (*driver).verifyLocally},
		{"open says what is wrong", (*driver).openErrors},
		{"an endpoint that goes away is unavailable", (*driver).goesAway},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := &driver{T: t, fake: NewFakeS3(t), scheme: scheme, open: open}
			store, err := open(t.Context(), s3api.Config{URL: d.fake.StoreURL(scheme)})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(d.fake.Take()); n != 1 {
				t.Errorf("open sent %d requests, want 1", n)
			}
			d.store = store
			t.Cleanup(func() {
				if c, ok := store.(interface{ Close() }); ok {
					c.Close()
				}
			})
			c.test(d)
		})
	}
}

type driver struct {
	*testing.T
	fake   *FakeS3
	store  objectstore.Store
	scheme objectstore.Scheme
	open   func(context.Context, s3api.Config) (objectstore.Store, error)
}

func (d *driver) one() Request {
	d.Helper()
	taken := d.fake.Take()
	if len(taken) != 1 {
		d.Fatalf("got %d requests, want 1: %+v", len(taken), taken)
	}
	return taken[0]
}

func (d *driver) putRequest() {
	for _, size := range []int{0, 1, 100_000, 20 << 20} { // 20 MiB: beyond where SDKs begin to cut in parts
		body := NewRope(1, size, 64<<10)
		key := fmt.Sprintf("wal/%d", size)
		if err := d.store.Put(d.Context(), key, body); err != nil {
			d.Fatal(err)
		}
		r := d.one()
		if want := "/" + Bucket + "/some/prefix/" + key; r.Method != http.MethodPut || r.Path != want {
			d.Errorf("got %s %s, want PUT %s", r.Method, r.Path, want)
		}
		for name, want := range map[string]string{
			"X-Amz-Content-Sha256":         "UNSIGNED-PAYLOAD",
			"X-Amz-Checksum-Crc32c":        s3api.EncodeCRC32C(body.Sum),
			"If-None-Match":                "*",
			"Content-Encoding":             "",
			"Content-Md5":                  "",
			"X-Amz-Trailer":                "",
			"Expect":                       "",
			"X-Amz-Checksum-Crc32":         "",
			"X-Amz-Checksum-Sha256":        "",
			"X-Amz-Decoded-Content-Length": "",
		} {
			if got := r.Header.Get(name); got != want {
				d.Errorf("%d bytes: header %s is %q, want %q", size, name, got, want)
			}
		}
		if r.Length != int64(size) || r.Body != int64(size) || len(r.Encoding) != 0 || r.Sum != body.Sum {
			d.Errorf("%d bytes: announced %d, came %d, transfer encoding %q, CRC32C %08x of %08x", size, r.Length, r.Body, r.Encoding, r.Sum, body.Sum)
		}
		if got := r.Query; strings.Contains(got, "upload") {
			d.Errorf("%d bytes: query %q: a multipart upload", size, got)
		}
		if auth := r.Header.Get("Authorization"); !strings.HasPrefix(auth, "AWS4-HMAC-SHA256 ") || !strings.Contains(auth, "x-amz-checksum-crc32c") {
			d.Errorf("%d bytes: the checksum is not under the signature: %q", size, auth)
		}
	}
}

func (d *driver) readRequests() {
	d.put("seg/1", 5000)
	if err := d.store.ReadAt(d.Context(), "seg/1", make([]byte, 100), 4000); err != nil {
		d.Fatal(err)
	}
	if r := d.one(); r.Method != http.MethodGet || r.Header.Get("Range") != "bytes=4000-4099" || r.Header.Get("X-Amz-Checksum-Mode") != "" {
		d.Errorf("got %s with Range %q and checksum mode %q", r.Method, r.Header.Get("Range"), r.Header.Get("X-Amz-Checksum-Mode"))
	}
	if _, err := d.store.Stat(d.Context(), "seg/1"); err != nil {
		d.Fatal(err)
	}
	if r := d.one(); r.Method != http.MethodHead || !strings.EqualFold(r.Header.Get("X-Amz-Checksum-Mode"), "enabled") {
		d.Errorf("got %s with checksum mode %q, want HEAD and ENABLED", r.Method, r.Header.Get("X-Amz-Checksum-Mode"))
	}
}

func (d *driver) put(key string, size int) {
	d.Helper()
	if err := d.store.Put(d.Context(), key, NewRope(1, size, 64<<10)); err != nil {
		d.Fatal(err)
	}
	d.fake.Take()
}

func (d *driver) deleteRequests() {
	for _, c := range []struct{ keys, requests int }{{0, 0}, {1, 1}, {1000, 1}, {1001, 2}, {2500, 3}} {
		var keys []string
		for i := range c.keys {
			keys = append(keys, fmt.Sprintf("wal/%d", i))
		}
		if err := d.store.Delete(d.Context(), keys); err != nil {
			d.Fatal(err)
		}
		if got := len(d.fake.Take()); got != c.requests {
			d.Errorf("delete %d keys: %d requests, want %d", c.keys, got, c.requests)
		}
	}
}

func (d *driver) memory() { Allocations(d.T, d.store) }

func (d *driver) answers() {
	cases := []struct {
		status int
		code   string
		want   error // nil: none of the contract's
		setup  bool
	}{
		{409, "ConditionalRequestConflict", objectstore.ErrUnavailable, false},
		{409, "ObjectParentIsFile", nil, false},
		{412, "PreconditionFailed", objectstore.ErrExists, false},
		{404, "NoSuchKey", objectstore.ErrNotFound, false},
		{404, "NoSuchBucket", nil, true},
		{416, "InvalidRange", objectstore.ErrRange, false},
		{429, "TooManyRequests", objectstore.ErrThrottled, false},
		{503, "SlowDown", objectstore.ErrThrottled, false},
		{503, "ServiceUnavailable", objectstore.ErrThrottled, false},
		{500, "InternalError", objectstore.ErrUnavailable, false},
		{502, "BadGateway", objectstore.ErrUnavailable, false},
		{504, "GatewayTimeout", objectstore.ErrUnavailable, false},
		{400, "RequestTimeout", objectstore.ErrUnavailable, false},
		{400, "IncompleteBody", objectstore.ErrUnavailable, false},
		{400, "ExpiredToken", objectstore.ErrUnavailable, false},
		{400, "BadDigest", objectstore.ErrChecksum, false},
		{400, "XAmzContentChecksumMismatch", objectstore.ErrChecksum, false},
		{400, "InvalidRequest", nil, false},
		{403, "InvalidAccessKeyId", nil, true},
		{403, "SignatureDoesNotMatch", nil, true},
		{403, "RequestTimeTooSkewed", nil, true},
		{403, "AccessDenied", nil, true},
		{400, "AuthorizationHeaderMalformed", nil, true},
		{301, "PermanentRedirect", nil, true},
		{501, "NotImplemented", nil, true},
	}
	for _, c := range cases {
		d.fake.AnswerWith(func(w http.ResponseWriter, r *http.Request) bool {
			io.Copy(io.Discard, r.Body)
			Refuse(w, r, c.status, c.code)
			return true
		})
		calls := map[string]error{
			"put":  d.store.Put(d.Context(), "key", NewRope(1, 10, 10)),
			"read": d.store.ReadAt(d.Context(), "key", make([]byte, 10), 0),
		}
		if n := len(d.fake.Take()); n != 2 {
			d.Errorf("%d %s: %d requests for 2 calls", c.status, c.code, n)
		}
		for call, err := range calls {
			var setup *objectstore.SetupError
			if err == nil || c.want != nil && !errors.Is(err, c.want) || errors.As(err, &setup) != c.setup ||
				c.want == nil && !c.setup && objectstore.Outcome(err) != "error" {
				d.Errorf("%d %s: %s: got %v, want %v (setup error %t)", c.status, c.code, call, err, c.want, c.setup)
			}
		}
	}
	// HEAD has no body, so only the status counts; a proxy's page is no S3 either.
	for status, want := range map[int]struct{ stat, read error }{
		404: {objectstore.ErrNotFound, objectstore.ErrUnavailable},
		503: {objectstore.ErrThrottled, objectstore.ErrThrottled},
		500: {objectstore.ErrUnavailable, objectstore.ErrUnavailable},
	} {
		d.fake.AnswerWith(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
			io.WriteString(w, "<html>sorry</html>")
			return true
		})
		if _, err := d.store.Stat(d.Context(), "key"); !errors.Is(err, want.stat) {
			d.Errorf("%d without S3's error: stat: got %v, want %v", status, err, want.stat)
		}
		if err := d.store.ReadAt(d.Context(), "key", make([]byte, 10), 0); !errors.Is(err, want.read) {
			d.Errorf("%d without S3's error: read: got %v, want %v", status, err, want.read)
		}
	}
}

func (d *driver) shortAnswers() {
	cases := []struct {
		name, contentRange string
		length, sent       int
		status             int
		want               error
	}{
		{"the connection breaks", "bytes 0-99/200", 100, 40, 206, objectstore.ErrUnavailable},
		{"the store sends less", "bytes 0-49/200", 50, 50, 206, objectstore.ErrUnavailable},
		{"the object is shorter", "bytes 0-49/50", 50, 50, 206, objectstore.ErrRange},
		{"another range comes", "bytes 100-199/200", 100, 100, 206, nil},
		{"nonsense comes", "pages 0-99/200", 100, 100, 206, nil},
		{"the range is ignored", "", 200, 200, 200, nil},
	}
	for _, c := range cases {
		d.fake.AnswerWith(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
			w.Header().Set("Content-Length", strconv.Itoa(c.length))
			if c.contentRange != "" {
				w.Header().Set("Content-Range", c.contentRange)
			}
			w.WriteHeader(c.status)
			w.Write(zeros[:c.sent])
			return true // a handler that sends less than it announced breaks the connection
		})
		err := d.store.ReadAt(d.Context(), "key", make([]byte, 100), 0)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || c.want == nil && objectstore.Outcome(err) != "error" {
			d.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func (d *driver) earlyRefusal() {
	d.fake.AnswerWith(func(w http.ResponseWriter, r *http.Request) bool {
		Refuse(w, r, http.StatusPreconditionFailed, "PreconditionFailed") // and the body stays unread
		return true
	})
	for range 20 {
		body := watch(NewRope(1, 8<<20, 16<<10))
		err := d.store.Put(d.Context(), "key", body)
		body.returned.Store(true)
		// The refusal can be lost behind a broken pipe; never is it a success.
		if !errors.Is(err, objectstore.ErrExists) && !errors.Is(err, objectstore.ErrUnavailable) {
			d.Errorf("got %v, want ErrExists or ErrUnavailable", err)
		}
		if c, ok := d.store.(interface{ Close() }); ok {
			c.Close()
		}
		if n := body.late.Load(); n != 0 {
			d.Fatalf("the body was read %d times after put returned", n)
		}
	}
}

func (d *driver) hangs() {
	reached, release := make(chan struct{}), make(chan struct{})
	d.fake.AnswerWith(func(http.ResponseWriter, *http.Request) bool {
		close(reached)
		<-release
		return true
	})
	ctx, cancel := context.WithCancel(d.Context())
	go func() {
		<-reached
		cancel()
	}()
	body := watch(NewRope(1, 8<<20, 16<<10))
	err := d.store.Put(ctx, "key", body)
	body.returned.Store(true)
	close(release)
	if !errors.Is(err, context.Canceled) {
		d.Errorf("got %v, want context.Canceled", err)
	}
	if n := body.late.Load(); n != 0 {
		d.Errorf("the body was read %d times after put returned", n)
	}
}

func (d *driver) deleteErrors() {
	answerKeys := func(code string) {
		d.fake.AnswerWith(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Type", "application/xml")
			fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><DeleteResult><Error><Key>some/prefix/one</Key><Code>%s</Code><Message>made up</Message></Error></DeleteResult>`, code)
			return true
		})
	}
	var setup *objectstore.SetupError
	answerKeys("AccessDenied")
	if err := d.store.Delete(d.Context(), []string{"one"}); !errors.As(err, &setup) || !strings.Contains(err.Error(), "delete one:") {
		d.Errorf("got %v, want a SetupError that names the key", err)
	}
	answerKeys("InternalError")
	if err := d.store.Delete(d.Context(), []string{"one"}); !errors.Is(err, objectstore.ErrUnavailable) {
		d.Errorf("got %v, want ErrUnavailable", err)
	}
	answerKeys("SlowDown")
	if err := d.store.Delete(d.Context(), []string{"one"}); !errors.Is(err, objectstore.ErrThrottled) {
		d.Errorf("got %v, want ErrThrottled", err)
	}
	answerKeys("InvalidArgument")
	if err := d.store.Delete(d.Context(), []string{"one"}); err == nil {
		d.Error("a key that was refused was reported as deleted")
	}
	answerKeys("NoSuchKey")
	if err := d.store.Delete(d.Context(), []string{"one"}); err != nil {
		d.Errorf("a key that held nothing: %v", err)
	}
}

func (d *driver) verifyLocally() {
	strict, err := d.open(d.Context(), s3api.Config{URL: d.fake.StoreURL(d.scheme), VerifyLocally: true})
	if err != nil {
		d.Fatal(err)
	}
	for _, size := range []int{0, 1, 1 << 20} {
		key := fmt.Sprintf("verified/%d", size)
		body := NewRope(1, size, 64<<10)
		if err := strict.Put(d.Context(), key, lying{body, body.Sum ^ 1, int64(size)}); !errors.Is(err, objectstore.ErrChecksum) {
			d.Errorf("%d bytes with a wrong sum: got %v, want ErrChecksum", size, err)
		}
		for _, r := range d.fake.Take() {
			if r.Method == http.MethodPut && r.Body >= int64(size) && size > 0 {
				d.Errorf("%d bytes with a wrong sum: all of them were sent", size)
			}
		}
		if err := strict.Put(d.Context(), key, body); err != nil {
			d.Errorf("%d bytes with the right sum: %v", size, err)
		}
	}
}

func (d *driver) openErrors() {
	notS3 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>hello</html>") }))
	defer notS3.Close()
	notFound := httptest.NewServer(http.NotFoundHandler())
	defer notFound.Close()
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	defer tls.Close()
	url := d.fake.StoreURL(d.scheme)
	at := func(endpoint string) objectstore.URL {
		u := url
		u.Endpoint = endpoint
		return u
	}
	missing := url
	missing.Bucket = "no-such-bucket"
	refuse := func(status int, code string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			Refuse(w, r, status, code)
			return true
		}
	}
	cases := []struct {
		name   string
		url    objectstore.URL
		answer func(http.ResponseWriter, *http.Request) bool
		want   string
	}{
		{"missing bucket", missing, nil, "the bucket does not exist"},
		{"unreachable", at("http://" + unusedAddress(d.T)), nil, "cannot be reached"},
		{"a web page", at(notS3.URL), nil, "does not speak S3"},
		{"a web server without the page", at(notFound.URL), nil, "does not speak S3"},
		{"a certificate of nobody", at(tls.URL), nil, "certificate is not trusted"},
		{"https where http is spoken", at(strings.Replace(d.fake.Server.URL, "http:", "https:", 1)), nil, "does not speak TLS"},
		{"unknown access key", url, refuse(403, "InvalidAccessKeyId"), "AWS_ACCESS_KEY_ID"},
		{"wrong secret", url, refuse(403, "SignatureDoesNotMatch"), "AWS_SECRET_ACCESS_KEY"},
		{"no rights", url, refuse(403, "AccessDenied"), "s3:ListBucket"},
		{"wrong clock", url, refuse(403, "RequestTimeTooSkewed"), "set the clock"},
		{"wrong region", url, refuse(400, "AuthorizationHeaderMalformed"), "region="},
		{"moved", url, refuse(301, "PermanentRedirect"), "region="},
		{"out of order", url, refuse(500, "InternalError"), "does not work"},
	}
	for _, c := range cases {
		d.fake.AnswerWith(c.answer)
		_, err := d.open(d.Context(), s3api.Config{URL: c.url})
		var setup *objectstore.SetupError
		if !errors.As(err, &setup) || !strings.Contains(err.Error(), c.want) || strings.ContainsRune(err.Error(), '\n') {
			d.Errorf("%s: got %v, want a SetupError with %q in one line", c.name, err, c.want)
		}
	}
	d.Setenv("AWS_ACCESS_KEY_ID", "")
	d.Setenv("AWS_SECRET_ACCESS_KEY", "")
	if _, err := d.open(d.Context(), s3api.Config{URL: url}); err == nil || !strings.Contains(err.Error(), "no credentials were found") {
		d.Errorf("without credentials: got %v", err)
	}
}

func unusedAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (d *driver) goesAway() {
	d.fake.Server.CloseClientConnections()
	d.fake.Server.Close()
	start := time.Now()
	for call, err := range map[string]error{
		"put":    d.store.Put(d.Context(), "key", NewRope(1, 100, 10)),
		"read":   d.store.ReadAt(d.Context(), "key", make([]byte, 1), 0),
		"delete": d.store.Delete(d.Context(), []string{"key"}),
	} {
		if !errors.Is(err, objectstore.ErrUnavailable) {
			d.Errorf("%s: got %v, want ErrUnavailable", call, err)
		}
	}
	// minio-go waits up to 0.2 s after a failure, though it does not try again.
	if took := time.Since(start); took > 5*time.Second {
		d.Errorf("three failing calls took %s: something retries", took)
	}
}
