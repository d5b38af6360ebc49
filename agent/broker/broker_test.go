package broker

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// pipes is a listener in memory whose Dial is kgo's.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	broker *Broker
	panics panics // of handlers
}

// panics is a log that remembers whether a handler panicked.
type panics struct {
	mu  sync.Mutex
	saw string
}

func (p *panics) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.Contains(string(b), "handler panicked") {
		p.saw = string(b)
	}
	return len(b), nil
}

// seen is the line that tells of a panic, if any does.
func (p *panics) seen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.saw
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// start serves a table on a listener in memory, as broker1:9092 of listener PLAINTEXT.
func start(t testing.TB, b *Broker) *pipes {
	t.Helper()
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{}), broker: b}
	l, err := wire.Listener{Name: wire.Plaintext, Host: "broker1", AdvertisedPort: 9092}.On(p)
	if err != nil {
		t.Fatal(err)
	}
	s := wire.New(b, slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), &p.panics), nil)), prometheus.NewRegistry(),
		wire.Config{FrameCap: b.FrameCap, Weight: b.Weight})
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return p
}

// client is one raw connection.
type client struct {
	t testing.TB
	net.Conn
}

func connect(t testing.TB, p *pipes) client {
	t.Helper()
	c, err := p.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return client{t, c}
}

func kgoClient(t testing.TB, p *pipes) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers("broker1:9092"), kgo.Dialer(p.dial))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (c client) send(req kmsg.Request) {
	c.t.Helper()
	if _, err := c.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, req, 5)); err != nil {
		c.t.Fatal(err)
	}
}

// body reads the body of an answer with or without tags in its header.
func (c client) body(tags bool) []byte {
	c.t.Helper()
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		c.t.Fatalf("reading an answer: %v", err)
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatal(err)
	}
	if tags {
		return b[5:]
	}
	return b[4:]
}

// ask sends a request in a version and decodes the answer.
func ask[R kmsg.Response](c client, version int16, req kmsg.Request) R {
	c.t.Helper()
	req.SetVersion(version)
	c.send(req)
	resp := req.ResponseKind()
	resp.SetVersion(version)
	tags := resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions)
	if err := resp.ReadFrom(c.body(tags)); err != nil {
		c.t.Fatalf("%s version %d: decoding the answer: %v", kmsg.NameForKey(req.Key()), version, err)
	}
	return resp.(R)
}

func (c client) wantClosed() {
	c.t.Helper()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		c.t.Fatal("got an answer, want a closed connection")
	}
}

// produceStub has Produce's versions, for the table's own special case.
func produceStub() API {
	return API{Key: 0, Min: 3, Max: 13, FrameCap: wire.MaxFrame, Weight: 1,
		Handle: func(_ context.Context, r *wire.Request, reply func(wire.Reply)) {
			if err := decodeProduce(r, kmsg.NewPtrProduceRequest()); err != nil {
				reply(refuse(err))
				return
			}
			reply(encode(r, kmsg.NewPtrProduceResponse()))
		}}
}

func TestApiVersionsSaysWhatTheTableHolds(t *testing.T) {
	p := start(t, New(Self{Features: []Feature{{"from.zero", 0, 1, 1}, {"from.one", 1, 2, 0}}}, produceStub()))
	for v := range int16(5) {
		req := kmsg.NewPtrApiVersionsRequest()
		req.ClientSoftwareName, req.ClientSoftwareVersion = "apache-kafka-java", "4.2.0"
		resp := ask[*kmsg.ApiVersionsResponse](connect(t, p), v, req)
		if resp.ErrorCode != 0 || len(resp.ApiKeys) != 2 {
			t.Fatalf("v%d: got error %d and %d keys", v, resp.ErrorCode, len(resp.ApiKeys))
		}
		if k := resp.ApiKeys[0]; k.ApiKey != 0 || k.MinVersion != 0 || k.MaxVersion != 13 {
			t.Errorf("v%d: got %+v, want Produce from 0 to 13", v, k)
		}
		if k := resp.ApiKeys[1]; k.ApiKey != 18 || k.MinVersion != 0 || k.MaxVersion != 4 {
			t.Errorf("v%d: got %+v, want ApiVersions from 0 to 4", v, k)
		}
		want := map[bool]int{true: 2, false: 1}[v >= 4] // below v4 a range from 0 is left out
		if v >= 3 && (len(resp.SupportedFeatures) != want || len(resp.FinalizedFeatures) != 1 || resp.FinalizedFeaturesEpoch != 0) {
			t.Errorf("v%d: got features %+v %+v", v, resp.SupportedFeatures, resp.FinalizedFeatures)
		}
	}
}

func TestApiVersionsOfTheFutureIsAnsweredInV0(t *testing.T) {
	c := connect(t, start(t, New(Self{}, produceStub())))
	req := kmsg.NewPtrApiVersionsRequest()
	req.Version = 99
	c.send(req)
	resp := kmsg.NewPtrApiVersionsResponse()
	if err := resp.ReadFrom(c.body(false)); err != nil {
		t.Fatal(err)
	}
	if resp.ErrorCode != kerr.UnsupportedVersion.Code || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].ApiKey != 18 || resp.ApiKeys[0].MaxVersion != 4 {
		t.Errorf("got error %d, keys %+v, want 35 and the range of key 18 alone", resp.ErrorCode, resp.ApiKeys)
	}
	again := ask[*kmsg.ApiVersionsResponse](c, 0, kmsg.NewPtrApiVersionsRequest())
	if len(again.ApiKeys) != 2 {
		t.Error("the connection is of no use after a version that was too new")
	}
}

func TestClientsNameThemselvesProperly(t *testing.T) {
	p := start(t, New(Self{}))
	for name, want := range map[string]int16{
		"librdkafka": 0, "a": 0, "a.b-c9": 0,
		"": kerr.InvalidRequest.Code, "-a": kerr.InvalidRequest.Code, "a.": kerr.InvalidRequest.Code, "a b": kerr.InvalidRequest.Code,
	} {
		req := kmsg.NewPtrApiVersionsRequest()
		req.ClientSoftwareName, req.ClientSoftwareVersion = name, "1.0"
		if resp := ask[*kmsg.ApiVersionsResponse](connect(t, p), 3, req); resp.ErrorCode != want {
			t.Errorf("name %q: got error %d, want %d", name, resp.ErrorCode, want)
		}
	}
}

func TestWhatTheTableDoesNotHoldClosesTheConnection(t *testing.T) {
	p := start(t, New(Self{}, produceStub()))
	for _, tc := range []struct {
		req     kmsg.Request
		version int16
	}{
		{kmsg.NewPtrProduceRequest(), 2}, // advertised, refused all the same
		{kmsg.NewPtrProduceRequest(), 14},
		{kmsg.NewPtrLeaderAndISRRequest(), 0},
	} {
		c := connect(t, p)
		tc.req.SetVersion(tc.version)
		c.send(tc.req)
		c.wantClosed()
	}
}

func TestAMalformedBodyClosesTheConnection(t *testing.T) {
	p := start(t, New(Self{}, Message(0, 13, 0,
		func(context.Context, *wire.Request, *kmsg.MetadataRequest) (kmsg.Response, error) {
			t.Error("the handler was called")
			return kmsg.NewPtrMetadataResponse(), nil
		})))
	c := connect(t, p)
	c.Write([]byte("\x00\x00\x00\x0e\x00\x03\x00\x00\x00\x00\x00\x01\x00\x00\x7f\xff\xff\xff"))
	c.wantClosed()
}

func TestAnAsyncHandlerAnswersLater(t *testing.T) {
	release := make(chan struct{})
	p := start(t, New(Self{}, Async(0, 4, 0,
		func(_ context.Context, _ *wire.Request, req *kmsg.HeartbeatRequest, reply func(kmsg.Response)) {
			go func() {
				<-release
				if req.Group == "gone" {
					reply(nil)
					return
				}
				resp := kmsg.NewPtrHeartbeatResponse()
				resp.ErrorCode = 27
				reply(resp)
			}()
		})))
	c := connect(t, p)
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group = "g"
	close(release)
	if resp := ask[*kmsg.HeartbeatResponse](c, 4, req); resp.ErrorCode != 27 {
		t.Errorf("got %d", resp.ErrorCode)
	}
	req.Group = "gone"
	c.send(req)
	c.wantClosed()
}

func TestAProduceRequestIsCountedBeforeItIsDecoded(t *testing.T) {
	for version := int16(3); version <= 13; version++ {
		req := kmsg.NewPtrProduceRequest()
		req.Version = version
		req.TransactionID = kmsg.StringPtr("txn")
		for range 3 {
			topic := kmsg.NewProduceRequestTopic()
			topic.Topic = "topic"
			for range 4 {
				p := kmsg.NewProduceRequestTopicPartition()
				p.Records = []byte("records")
				topic.Partitions = append(topic.Partitions, p)
			}
			req.Topics = append(req.Topics, topic)
		}
		r := &wire.Request{Key: 0, Version: version, Body: req.AppendTo(nil)}
		got := kmsg.NewPtrProduceRequest()
		err := decodeProduce(r, got)
		if err != nil || len(got.Topics) != 3 || string(got.Topics[2].Partitions[3].Records) != "records" {
			t.Fatalf("v%d: got %+v, %v", version, got, err)
		}
		for range maxProduceElements {
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, req.Topics[0].Partitions[0])
		}
		r.Body = req.AppendTo(nil)
		if err := decodeProduce(r, got); err == nil || !strings.Contains(err.Error(), "want at most 20000") {
			t.Errorf("v%d: got %v, want a refusal", version, err)
		}
	}
}
