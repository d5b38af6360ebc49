// Package console serves what operators look at: health, readiness, metrics, and on loopback only profiling and eviction.
package console

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Checks says how the agent is. A nil error is good.
type Checks struct {
	// Healthy: the process works, and restarting it would not help. Ready: clients may be sent here.
	Healthy, Ready func() error
	// Evict drops every local copy of an object; none is needed.
	Evict func() error
}

// New is the handler of http.listen.
func New(metrics prometheus.Gatherer, checks Checks) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", check(checks.Healthy))
	mux.HandleFunc("GET /readyz", check(checks.Ready))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", loopback(pprof.Index))
	mux.HandleFunc("/debug/pprof/cmdline", loopback(pprof.Cmdline))
	mux.HandleFunc("/debug/pprof/profile", loopback(pprof.Profile))
	mux.HandleFunc("/debug/pprof/symbol", loopback(pprof.Symbol))
	mux.HandleFunc("/debug/pprof/trace", loopback(pprof.Trace))
	mux.HandleFunc("POST /debug/evict", loopback(func(w http.ResponseWriter, _ *http.Request) { answer(w, checks.Evict()) }))
	return mux
}

func check(f func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { answer(w, f()) }
}

func answer(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintln(w, "ok")
}

var errNotLocal = errors.New("only from the machine itself")

// loopback refuses strangers, and pages of other sites that a local browser was made to open: both ends of the connection
// are on loopback, and so is the name that the client asked for.
func loopback(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if local == nil || !isLoopback(local.String()) || !isLoopback(r.RemoteAddr) || !isLoopbackHost(r.Host) {
			http.Error(w, errNotLocal.Error(), http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

func isLoopback(address string) bool {
	ap, err := netip.ParseAddrPort(address)
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

func isLoopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}
