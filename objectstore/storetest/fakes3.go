package storetest

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"varve.dev/objectstore"
)

// Request is what reached the server.
type Request struct {
	Method, Path, Query string
	Header              http.Header
	Length              int64    // as announced, -1 for none
	Encoding            []string // transfer encodings
	Body                int64    // bytes that came
	Sum                 uint32   // and their CRC32C
}

// FakeS3 answers as S3 does for as much as the cost tests need, keeps sizes instead of bytes, and writes every request
// down. It is no oracle for behaviour: that is what versitygw is for.
type FakeS3 struct {
	*httptest.Server

	mu       sync.Mutex // guards what follows
	requests []Request
	objects  map[string]int64
	answer   func(http.ResponseWriter, *http.Request) bool
}

// Bucket is the only one that FakeS3 has.
const Bucket = "fake-bucket"

// NewFakeS3 starts one, and puts made-up credentials into the environment.
func NewFakeS3(t *testing.T) *FakeS3 {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAFAKE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
	t.Setenv("AWS_SESSION_TOKEN", "")
	f := &FakeS3{objects: map[string]int64{}}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

// StoreURL is the URL to open. Path style, since 127.0.0.1 has no subdomains.
func (f *FakeS3) StoreURL(scheme objectstore.Scheme) objectstore.URL {
	return objectstore.URL{Scheme: scheme, Bucket: Bucket, Prefix: "some/prefix", Endpoint: f.Server.URL, Region: "us-east-1", PathStyle: true}
}

// AnswerWith lets answer reply first; where it returns false the usual answer follows. nil ends that.
func (f *FakeS3) AnswerWith(answer func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// Take returns the requests since the last Take.
func (f *FakeS3) Take() []Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.requests
	f.requests = nil
	return taken
}

func (f *FakeS3) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Amz-Request-Id", "FAKE")
	f.mu.Lock()
	answer := f.answer
	f.mu.Unlock()
	if answer != nil && answer(w, r) {
		f.note(r, 0, 0)
		return
	}
	key, inBucket := strings.CutPrefix(r.URL.Path, "/"+Bucket+"/")
	switch {
	case !inBucket && r.URL.Path != "/"+Bucket:
		f.note(r, 0, 0)
		Refuse(w, r, http.StatusNotFound, "NoSuchBucket")
	case r.Method == http.MethodPut:
		f.put(w, r, key)
	case r.Method == http.MethodGet && key != "", r.Method == http.MethodHead:
		f.note(r, 0, 0)
		f.get(w, r, key)
	case r.Method == http.MethodPost && r.URL.Query().Has("delete"):
		f.delete(w, r)
	default:
		f.note(r, 0, 0)
		Refuse(w, r, http.StatusNotImplemented, "NotImplemented")
	}
}

func (f *FakeS3) note(r *http.Request, n int64, sum uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, Request{
		Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Header: r.Header.Clone(),
		Length: r.ContentLength, Encoding: r.TransferEncoding, Body: n, Sum: sum,
	})
}

// Refuse answers with an error of S3's kind.
func Refuse(w http.ResponseWriter, r *http.Request, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>made up</Message><RequestId>FAKE</RequestId></Error>", code)
	}
}

func (f *FakeS3) put(w http.ResponseWriter, r *http.Request, key string) {
	hash := crc32.New(castagnoli)
	n, err := io.Copy(hash, r.Body)
	f.note(r, n, hash.Sum32())
	if err != nil || n != r.ContentLength {
		Refuse(w, r, http.StatusBadRequest, "IncompleteBody")
		return
	}
	sum := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, hash.Sum32()))
	if want := r.Header.Get("X-Amz-Checksum-Crc32c"); want != "" && want != sum {
		Refuse(w, r, http.StatusBadRequest, "BadDigest")
		return
	}
	f.mu.Lock()
	_, taken := f.objects[key]
	if !taken {
		f.objects[key] = n
	}
	f.mu.Unlock()
	if taken {
		Refuse(w, r, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	w.Header().Set("ETag", `"fake"`)
	w.WriteHeader(http.StatusOK)
}

// get serves zeros.
func (f *FakeS3) get(w http.ResponseWriter, r *http.Request, key string) {
	f.mu.Lock()
	size, ok := f.objects[key]
	f.mu.Unlock()
	if !ok {
		Refuse(w, r, http.StatusNotFound, "NoSuchKey")
		return
	}
	first, last, status := int64(0), size-1, http.StatusOK
	if spec, ranged := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ranged {
		from, to, _ := strings.Cut(spec, "-")
		first, _ = strconv.ParseInt(from, 10, 64)
		last, _ = strconv.ParseInt(to, 10, 64)
		if first >= size {
			Refuse(w, r, http.StatusRequestedRangeNotSatisfiable, "InvalidRange")
			return
		}
		last, status = min(last, size-1), http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, size))
	}
	w.Header().Set("Content-Length", strconv.FormatInt(last-first+1, 10))
	w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
	w.Header().Set("ETag", `"fake"`)
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	for left := last - first + 1; left > 0; {
		n, err := w.Write(zeros[:min(left, int64(len(zeros)))])
		if err != nil {
			return
		}
		left -= int64(n)
	}
}

var zeros [64 << 10]byte // never written to

func (f *FakeS3) delete(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Object []struct{ Key string }
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	f.note(r, int64(len(raw)), 0)
	if err != nil || xml.Unmarshal(raw, &body) != nil || len(body.Object) > objectstore.MaxDeleteKeys {
		Refuse(w, r, http.StatusBadRequest, "MalformedXML")
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	fmt.Fprint(w, `<?xml version="1.0" encoding="UTF-8"?><DeleteResult>`)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range body.Object {
		delete(f.objects, o.Key)
		fmt.Fprintf(w, "<Deleted><Key>%s</Key></Deleted>", o.Key)
	}
	fmt.Fprint(w, `</DeleteResult>`)
}
