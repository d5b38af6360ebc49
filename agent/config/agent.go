package config

import (
	"fmt"
	"maps"
	"math"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Source says where a value came from. A later one wins over an earlier one.
type Source int8

const (
	FromDefault     Source = iota
	FromFile               // the file given to varve agent --config
	FromEnvironment        // VARVE_…
	FromFlag               // --set, and what varve dev sets itself
	FromDynamic            // altered while agents run
)

func (s Source) String() string {
	return [...]string{"default", "file", "environment", "flag", "dynamic"}[s]
}

// Agent is an agent's resolved configuration: every key has a value that its Check accepts. It is immutable.
type Agent struct {
	values  map[string]string
	sources map[string]Source
}

// Listener is one address that the agent serves Kafka clients on, and the one that it tells them to use.
type Listener struct {
	Name           string
	Host           string
	Port           int // 0: take a free one
	AdvertisedHost string
	AdvertisedPort int // 0: the port that was bound
}

// Address is what to bind.
func (l Listener) Address() string { return net.JoinHostPort(l.Host, strconv.Itoa(l.Port)) }

// String returns a key's value. Asking for a key that the table does not hold is a programmer's mistake and panics.
func (a *Agent) String(name string) string {
	v, ok := a.values[name]
	if !ok {
		panic(fmt.Sprintf("config: no agent key %q", name))
	}
	return v
}

// Int returns the value of a numeric key, in the key's unit.
func (a *Agent) Int(name string) int64 {
	v, err := strconv.ParseInt(a.String(name), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("config: agent key %q is not a number", name))
	}
	return v
}

// Bool returns the value of a boolean key.
func (a *Agent) Bool(name string) bool { return strings.EqualFold(a.String(name), "true") }

// Duration returns the value of a key in milliseconds, minutes or hours as a duration, which is cut where it would overflow;
// a negative value stays negative.
func (a *Agent) Duration(name string) time.Duration {
	unit := time.Millisecond
	switch k, _ := AgentKey(name); k.Unit {
	case "minutes":
		unit = time.Minute
	case "hours":
		unit = time.Hour
	}
	v := a.Int(name)
	if v > int64(math.MaxInt64/unit) {
		return math.MaxInt64
	}
	return time.Duration(v) * unit
}

// Source says where a key's value came from.
func (a *Agent) Source(name string) Source { return a.sources[name] }

// TopicDefault returns the value of a topic's key for a topic that does not set it, and where that value came from.
func (a *Agent) TopicDefault(k Key) (string, Source) {
	if k.AgentKey == "" {
		return k.Default, FromDefault
	}
	return a.String(k.AgentKey), a.Source(k.AgentKey)
}

// Listeners returns what to bind and what to advertise.
func (a *Agent) Listeners() []Listener {
	list, _ := parseListeners(a.String("listeners"), 0)
	advertised, _ := parseListeners(a.String("advertised.listeners"), 1)
	for i := range list {
		list[i].AdvertisedHost, list[i].AdvertisedPort = list[i].Host, list[i].Port
		for _, adv := range advertised {
			if adv.Name == list[i].Name {
				list[i].AdvertisedHost, list[i].AdvertisedPort = adv.Host, adv.Port
			}
		}
	}
	return list
}

// With returns the configuration with values that were altered while agents run laid over it. What the table does not
// know, does not accept or does not call dynamic is left out: a newer agent may have written it.
func (a *Agent) With(dynamic map[string]string) *Agent {
	next := &Agent{values: maps.Clone(a.values), sources: maps.Clone(a.sources)}
	for name, value := range dynamic {
		if k, ok := AgentKey(name); ok && k.Dynamic && k.Check(value) == nil && value != "" {
			next.set(name, value, FromDynamic)
		}
	}
	return next
}

func (a *Agent) set(name, value string, from Source) {
	a.values[name], a.sources[name] = value, from
}

// derive fills in the values that other keys decide.
func (a *Agent) derive() error {
	a.fromCoarser("log.retention.ms", "log.retention.minutes", "log.retention.hours")
	a.fromCoarser("log.roll.ms", "", "log.roll.hours")
	if a.values["log.retention.minutes"] == "" {
		a.values["log.retention.minutes"] = strconv.FormatInt(scale(a.Int("log.retention.ms"), 1, minute), 10)
	}
	if a.values["metadata.url"] == "" {
		a.values["metadata.url"] = "sqlite:" + filepath.Join(a.values["data.dir"], "metadata.db")
	}
	if a.values["store.url"] == "" {
		dir, err := filepath.Abs(filepath.Join(a.values["data.dir"], "objects"))
		if err != nil {
			return fmt.Errorf("store.url: %w", err)
		}
		a.values["store.url"] = (&url.URL{Scheme: "file", Path: filepath.ToSlash(dir)}).String()
	}
	if a.values["flush.interval.ms"] == "" {
		a.values["flush.interval.ms"] = "20" // a local fsync is the only cost
		if remote(a.values["store.url"]) {
			a.values["flush.interval.ms"] = "250" // each upload is paid for
		}
	}
	return nil
}

// fromCoarser gives a key in milliseconds, where it is not set, the value of its counterpart in minutes or else hours.
func (a *Agent) fromCoarser(ms, minutes, hours string) {
	if a.values[ms] != "" {
		return
	}
	from, unit := hours, hour
	if minutes != "" && a.values[minutes] != "" {
		from, unit = minutes, minute
	}
	a.set(ms, strconv.FormatInt(scale(a.Int(from), unit, 1), 10), a.sources[from])
}

// scale is v*times/by, where a negative v means "no limit" and stays as it is.
func scale(v, times, by int64) int64 {
	if v < 0 {
		return v
	}
	if v > math.MaxInt64/times {
		return math.MaxInt64 / by
	}
	return v * times / by
}

func remote(storeURL string) bool {
	return strings.HasPrefix(storeURL, "s3:") || strings.HasPrefix(storeURL, "minio:")
}

// DevDefaults are the settings of varve dev: bounds so small that a newcomer sees segments within seconds, and groups
// that start at once. They cost requests, which a folder does not charge for.
func DevDefaults() []string {
	return []string{
		"seal.age.ms=3000",
		"seal.extent.min.bytes=1",
		"seal.check.interval.ms=500",
		"gc.interval.ms=5000",
		"gc.grace.ms=30000",
		"log.retention.check.interval.ms=10000",
		"group.initial.rebalance.delay.ms=0",
		"journal.file.bytes=16777216",
		"catalog.poll.ms=500",
	}
}
