package wire

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Plaintext is the name of a listener that was given none.
const Plaintext = "PLAINTEXT"

// Listener is one address to accept on and the one that clients are told (Kafka's listeners and advertised.listeners).
type Listener struct {
	Name           string
	Host           string
	Port           int // 0: take a free one
	AdvertisedHost string
	AdvertisedPort int // 0: the port that was bound
}

// Bound is an open listener that knows its name and what clients are told.
type Bound struct {
	net.Listener
	Name string
	Host string // advertised
	Port int32  // advertised
}

// Open binds the listener's address.
func (l Listener) Open(ctx context.Context) (*Bound, error) {
	var lc net.ListenConfig
	nl, err := lc.Listen(ctx, "tcp", net.JoinHostPort(l.Host, strconv.Itoa(l.Port)))
	if err != nil {
		return nil, fmt.Errorf("listener %s: %w", l.Name, err)
	}
	b, err := l.On(nl)
	if err != nil {
		nl.Close()
		return nil, err
	}
	return b, nil
}

// On puts an open listener in the place of the address to bind: a listener in memory, or one that was inherited.
func (l Listener) On(nl net.Listener) (*Bound, error) {
	host, port := l.AdvertisedHost, l.AdvertisedPort
	if host == "" {
		host = l.Host
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return nil, fmt.Errorf("listener %s would advertise %q, which no client can reach: set advertised.listeners", l.Name, host)
	}
	if port == 0 {
		if bound, ok := nl.Addr().(*net.TCPAddr); ok {
			port = bound.Port
		}
	}
	return &Bound{Listener: nl, Name: l.Name, Host: host, Port: int32(port)}, nil
}

// Advertise writes what an agent tells the others about its listeners: NAME://host:port, several after commas. Endpoint
// reads it.
func Advertise(ls ...*Bound) string {
	parts := make([]string, 0, len(ls))
	for _, l := range ls {
		parts = append(parts, l.Name+"://"+net.JoinHostPort(l.Host, strconv.Itoa(int(l.Port))))
	}
	return strings.Join(parts, ",")
}

// Endpoint answers the address of the listener called name in what Advertise wrote.
func Endpoint(advertised, name string) (host string, port int32, ok bool) {
	for entry := range strings.SplitSeq(advertised, ",") {
		address, found := strings.CutPrefix(entry, name+"://")
		if !found {
			continue
		}
		host, digits, err := net.SplitHostPort(address)
		if err != nil {
			return "", 0, false
		}
		n, err := strconv.ParseUint(digits, 10, 16)
		return host, int32(n), err == nil
	}
	return "", 0, false
}

// identity is the name and advertised address of a listener; one that is not Bound advertises itself.
func identity(l net.Listener) (name, host string, port int32) {
	if b, ok := l.(*Bound); ok {
		return b.Name, b.Host, b.Port
	}
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		return Plaintext, a.IP.String(), int32(a.Port)
	}
	return Plaintext, l.Addr().String(), 0
}
