package chaos

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// faultKind is what a proxy does to one request of an agent to its S3 server.
type faultKind string

const (
	noFault     faultKind = "none"
	slowDown    faultKind = "503"          // and for a while every request
	reset       faultKind = "reset"        // before the server has seen anything
	lost        faultKind = "lost reply"   // after it took effect
	slow        faultKind = "slow"         // the answer comes late
	cut         faultKind = "cut body"     // the connection ends inside it
	short       faultKind = "short body"   // it ends in order, and says so in its head
	flipped     faultKind = "flipped body" // one bit is wrong
	duplicated  faultKind = "sent twice"   // the same PUT arrives once more, later
	unreachable faultKind = "unreachable"  // the server is gone
)

const (
	// shortest is a body that is worth being damaged, in bytes.
	shortest = 20
	// latest is the longest time between a PUT and its second arrival, slowest that by which an answer comes late, and
	// longestRefusal that for which every request is answered with 503.
	latest         = 2 * time.Second
	slowest        = time.Second
	longestRefusal = 1200 * time.Millisecond
)

// oddsOf100000 of each fault, of the requests that it can happen to.
var oddsOf100000 = map[faultKind]int{slowDown: 1000, reset: 3000, lost: 4000, slow: 4000, cut: 4000, short: 3000, flipped: 3000, duplicated: 3000}

// proxy stands between an agent and its S3 server. Its zero seed injects nothing.
type proxy struct {
	t       *testing.T
	server  *http.Server
	address string
	forward *http.Transport
	target  atomic.Pointer[string] // host:port of the S3 server; nil: it is gone
	late    sync.WaitGroup

	mu      sync.Mutex
	rng     *rand.Rand // nil: no faults
	refuses time.Time  // until then: 503
	counts  map[faultKind]int
}

// newProxy forwards to a server until the test ends.
func newProxy(t *testing.T, target string, seed uint64) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, address: l.Addr().String(), forward: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}, counts: map[faultKind]int{}}
	p.point(target)
	if seed > 0 {
		p.rng = rand.New(rand.NewPCG(seed, 5))
	}
	p.server = &http.Server{Handler: p}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := p.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		if err := p.server.Close(); err != nil {
			t.Error(err)
		}
		<-served
		p.late.Wait()
		p.forward.CloseIdleConnections()
	})
	return p
}

func (p *proxy) endpoint() string { return "http://" + p.address }

// point forwards to another server from now on, by its URL; "" to none.
func (p *proxy) point(target string) {
	if target == "" {
		p.target.Store(nil)
		return
	}
	host := strings.TrimPrefix(target, "http://")
	p.target.Store(&host)
}

// draw says what happens to a request. What an agent asks at its start is left alone: a store that does not work then is a
// sentence for a person.
func (p *proxy) draw(r *http.Request) (kind faultKind, x float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kind = noFault
	if p.target.Load() == nil {
		kind = unreachable
	} else if p.rng != nil && !strings.Contains(r.URL.Path, "probe-") && !strings.Contains(r.URL.Path, "varve-open-") {
		x = p.rng.Float64()
		if time.Now().Before(p.refuses) {
			kind = slowDown
		} else {
			kind = p.pick(r.Method)
		}
		if kind == slowDown && time.Now().After(p.refuses) {
			p.refuses = time.Now().Add(time.Duration(x * float64(longestRefusal)))
		}
	}
	p.counts[kind]++
	return kind, x
}

func (p *proxy) pick(method string) faultKind {
	kinds := []faultKind{slowDown, reset, lost, slow}
	switch method {
	case http.MethodGet:
		kinds = append(kinds, cut, short, flipped)
	case http.MethodPut:
		kinds = append(kinds, duplicated)
	}
	n := p.rng.IntN(100_000)
	for _, k := range kinds {
		if n -= oddsOf100000[k]; n < 0 {
			return k
		}
	}
	return noFault
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind, x := p.draw(r)
	switch kind {
	case unreachable, reset:
		tear(w)
	case slowDown:
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, "<Error><Code>SlowDown</Code><Message>reduce your request rate</Message></Error>")
		return
	case duplicated:
		p.twice(r, x)
	}
	resp, err := p.send(r, r.Body)
	if err != nil {
		tear(w)
	}
	defer resp.Body.Close()
	switch kind {
	case lost:
		_, _ = io.Copy(io.Discard, resp.Body) // it has taken effect
		tear(w)
	case slow:
		pause(r.Context(), time.Duration(x*float64(slowest)))
	}
	p.answer(w, resp, kind, x)
}

// tear ends the client's connection without an answer.
func tear(http.ResponseWriter) { panic(http.ErrAbortHandler) }

func (p *proxy) send(r *http.Request, body io.Reader) (*http.Response, error) {
	target := p.target.Load()
	if target == nil {
		return nil, errors.New("the server is gone")
	}
	out := r.Clone(r.Context())
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", *target // Host stays: it is signed
	out.Body = io.NopCloser(body)
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	return p.forward.RoundTrip(out)
}

// answer passes a response on, whole or damaged.
func (p *proxy) answer(w http.ResponseWriter, resp *http.Response, kind faultKind, x float64) {
	maps.Copy(w.Header(), resp.Header)
	n := resp.ContentLength
	body := io.Reader(resp.Body)
	damage := resp.StatusCode/100 == 2 && n >= shortest
	at := int64(x * float64(n))
	switch {
	case damage && kind == short:
		w.Header().Set("Content-Length", strconv.FormatInt(at, 10))
		body = io.LimitReader(body, at)
	case damage && kind == flipped:
		body = &flipper{body, at}
	case damage && kind == cut:
		body = io.LimitReader(body, at)
	}
	w.WriteHeader(resp.StatusCode)
	_, err := io.Copy(w, body)
	if err != nil || damage && kind == cut {
		tear(w) // whatever has been sent, the rest is missing
	}
}

// flipper changes one bit of what it reads.
type flipper struct {
	from io.Reader
	at   int64
}

func (f *flipper) Read(b []byte) (int, error) {
	n, err := f.from.Read(b)
	if f.at >= 0 && f.at < int64(n) {
		b[f.at] ^= 16
	}
	f.at -= int64(n)
	return n, err
}

// twice lets a copy of a request arrive some time after the one that is answered, as a network may that has kept it.
func (p *proxy) twice(r *http.Request, x float64) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 512<<20))
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	if err != nil {
		return // nor does it arrive once
	}
	again := r.Clone(p.t.Context())
	p.late.Go(func() {
		pause(again.Context(), time.Duration(x*float64(latest)))
		if resp, err := p.send(again, strings.NewReader(string(body))); err == nil {
			resp.Body.Close()
		}
	})
}

// summary is what happened how often.
func (p *proxy) summary() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(p.counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, p.counts[k]))
	}
	return strings.Join(parts, ", ")
}

// missing are those of some faults that have not happened.
func (p *proxy) missing(kinds ...faultKind) (none []faultKind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range kinds {
		if p.counts[k] == 0 {
			none = append(none, k)
		}
	}
	return none
}
