package main

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// bucket that the stub has.
const stubBucket = "bench"

// stub is as much of S3 as the agent asks for, inside the bench's own process, so that the store's CPU is nobody else's.
// It checks CRC32C and refuses keys that exist, as good stores do.
type stub struct {
	url      string
	server   *http.Server
	served   chan struct{}
	keepMost int64 // bytes of an object that are kept; of a larger one only its length is

	puts, gets, heads, deletes, lists atomic.Int64
	putBytes, getBytes                atomic.Int64

	mu      sync.Mutex
	objects map[string]stored
	delay   func(get bool, size int) (first time.Duration, bytesPerSecond float64) // nil: none
	buffers sync.Pool
}

type stored struct {
	data []byte // nil: not kept
	size int64
	sum  uint32
}

func startStub(keepMost int64) (*stub, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &stub{url: "http://" + l.Addr().String(), served: make(chan struct{}), keepMost: keepMost, objects: map[string]stored{}}
	s.buffers.New = func() any { b := make([]byte, 256<<10); return &b }
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func() {
		defer close(s.served)
		_ = s.server.Serve(l) // ends by Close
	}()
	return s, nil
}

func (s *stub) close() {
	s.server.Close()
	<-s.served
}

// lognormal is S3's shape: most answers near the median, a long tail.
func lognormal(rng *rand.Rand, median time.Duration, sigma float64) time.Duration {
	return time.Duration(float64(median) * math.Exp(sigma*rng.NormFloat64()))
}

// likeS3 makes the stub as slow as S3 Standard is: the time to the first byte, and the pace of one stream.
func (s *stub) likeS3(seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	var mu sync.Mutex
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = func(get bool, _ int) (time.Duration, float64) {
		mu.Lock()
		defer mu.Unlock()
		if !get {
			return lognormal(rng, 45*time.Millisecond, 0.5), 85e6
		}
		first := lognormal(rng, 18*time.Millisecond, 0.6)
		if rng.IntN(100) == 0 {
			first += 150*time.Millisecond + time.Duration(rng.IntN(250))*time.Millisecond
		}
		return first, 93e6
	}
}

func (s *stub) pace(get bool, size int) (time.Duration, float64) {
	s.mu.Lock()
	delay := s.delay
	s.mu.Unlock()
	if delay == nil {
		return 0, 0
	}
	return delay(get, size)
}

func (s *stub) find(key string) (stored, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	return o, ok
}

func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Amz-Request-Id", "BENCH")
	key, ok := strings.CutPrefix(r.URL.Path, "/"+stubBucket+"/")
	switch {
	case r.Method == http.MethodPost && r.URL.Query().Has("delete"):
		s.delete(w, r)
	case !ok || key == "":
		s.lists.Add(1)
		refuse(w, r, http.StatusNotImplemented, "NotImplemented")
	case r.Method == http.MethodPut:
		s.put(w, r, key)
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		s.get(w, r, key)
	default:
		refuse(w, r, http.StatusNotImplemented, "NotImplemented")
	}
}

func refuse(w http.ResponseWriter, r *http.Request, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>stub</Message></Error>", code)
	}
}

func encodeSum(sum uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

func (s *stub) put(w http.ResponseWriter, r *http.Request, key string) {
	s.puts.Add(1)
	o, err := s.take(r)
	s.putBytes.Add(o.size)
	if err != nil || o.size != r.ContentLength {
		refuse(w, r, http.StatusBadRequest, "IncompleteBody")
		return
	}
	if want := r.Header.Get("X-Amz-Checksum-Crc32c"); want != "" && want != encodeSum(o.sum) {
		refuse(w, r, http.StatusBadRequest, "BadDigest")
		return
	}
	if first, rate := s.pace(false, int(o.size)); rate > 0 {
		time.Sleep(first + time.Duration(float64(o.size)/rate*float64(time.Second)))
	}
	s.mu.Lock()
	_, taken := s.objects[key]
	if !taken || r.Header.Get("If-None-Match") != "*" {
		s.objects[key] = o
		taken = false
	}
	s.mu.Unlock()
	if taken {
		refuse(w, r, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	w.Header().Set("ETag", `"bench"`)
	w.Header().Set("X-Amz-Checksum-Crc32c", encodeSum(o.sum))
	w.WriteHeader(http.StatusOK)
}

// take reads a body and sums it up.
func (s *stub) take(r *http.Request) (o stored, err error) {
	if r.ContentLength >= 0 && r.ContentLength <= s.keepMost {
		o.data = make([]byte, r.ContentLength)
		n, err := io.ReadFull(r.Body, o.data)
		o.size, o.sum = int64(n), crc32.Checksum(o.data[:n], castagnoli)
		return o, err
	}
	b := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(b)
	for {
		n, err := r.Body.Read(*b)
		o.size, o.sum = o.size+int64(n), crc32.Update(o.sum, castagnoli, (*b)[:n])
		if err == io.EOF {
			return o, nil
		}
		if err != nil {
			return o, err
		}
	}
}

func (s *stub) get(w http.ResponseWriter, r *http.Request, key string) {
	if r.Method == http.MethodHead {
		s.heads.Add(1)
	} else {
		s.gets.Add(1)
	}
	o, ok := s.find(key)
	if !ok {
		refuse(w, r, http.StatusNotFound, "NoSuchKey")
		return
	}
	first, last, status := int64(0), o.size-1, http.StatusOK
	if spec, ranged := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ranged {
		from, to, _ := strings.Cut(spec, "-")
		var e1, e2 error
		first, e1 = strconv.ParseInt(from, 10, 64)
		last, e2 = strconv.ParseInt(to, 10, 64)
		if e1 != nil || e2 != nil || first >= o.size || last < first {
			refuse(w, r, http.StatusRequestedRangeNotSatisfiable, "InvalidRange")
			return
		}
		last, status = min(last, o.size-1), http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, o.size))
	} else {
		w.Header().Set("X-Amz-Checksum-Crc32c", encodeSum(o.sum))
	}
	w.Header().Set("Content-Length", strconv.FormatInt(last-first+1, 10))
	w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
	w.Header().Set("ETag", `"bench"`)
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return
	}
	if o.data == nil {
		refuse(w, r, http.StatusInternalServerError, "NotKept")
		return
	}
	s.getBytes.Add(last - first + 1)
	s.send(w, status, o.data[first:last+1])
}

// send writes a body at the pace of the store.
func (s *stub) send(w http.ResponseWriter, status int, data []byte) {
	first, rate := s.pace(true, len(data))
	if rate == 0 {
		w.WriteHeader(status)
		_, _ = w.Write(data) // a client that went away is its own affair
		return
	}
	time.Sleep(first)
	w.WriteHeader(status)
	const piece = 256 << 10
	began, sent := time.Now(), 0
	for len(data) > 0 {
		n, err := w.Write(data[:min(piece, len(data))])
		if err != nil {
			return
		}
		data, sent = data[n:], sent+n
		time.Sleep(time.Until(began.Add(time.Duration(float64(sent) / rate * float64(time.Second)))))
	}
}

func (s *stub) delete(w http.ResponseWriter, r *http.Request) {
	s.deletes.Add(1)
	var body struct{ Object []struct{ Key string } }
	raw, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil || xml.Unmarshal(raw, &body) != nil {
		refuse(w, r, http.StatusBadRequest, "MalformedXML")
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	fmt.Fprint(w, `<?xml version="1.0" encoding="UTF-8"?><DeleteResult>`)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range body.Object {
		delete(s.objects, o.Key)
		fmt.Fprintf(w, "<Deleted><Key>%s</Key></Deleted>", o.Key)
	}
	fmt.Fprint(w, `</DeleteResult>`)
}

// sizes lists what is kept below a prefix.
func (s *stub) sizes(prefix string) map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int64{}
	for key, o := range s.objects {
		if strings.HasPrefix(key, prefix) && o.data != nil {
			out[key] = o.size
		}
	}
	return out
}

// rawGets is the control of a cold replay: the same objects by plain ranged GETs, so many at a time. It answers bytes a
// second.
func (s *stub) rawGets(ctx context.Context, prefix string, size int64, parallel int) (float64, error) {
	type piece struct {
		key   string
		first int64
		n     int64
	}
	var pieces []piece
	var total int64
	for key, n := range s.sizes(prefix) {
		for at := int64(0); at < n; at += size {
			pieces = append(pieces, piece{key, at, min(size, n-at)})
		}
		total += n
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: parallel, DisableCompression: true}}
	defer client.CloseIdleConnections()
	work := make(chan piece)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	began := time.Now()
	for range parallel {
		wg.Go(func() {
			buf := make([]byte, size)
			for p := range work {
				if err := rangedGet(ctx, client, s.url+"/"+stubBucket+"/"+p.key, buf[:p.n], p.first); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, p := range pieces {
		work <- p
	}
	close(work)
	wg.Wait()
	return float64(total) / time.Since(began).Seconds(), context.Cause(ctx)
}

func rangedGet(ctx context.Context, client *http.Client, url string, dst []byte, first int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first, first+int64(len(dst))-1))
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	_, err = io.ReadFull(resp.Body, dst)
	return err
}
