package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	envPrefix = "VARVE_"

	// MaxFileBytes bounds the file that Load accepts: the whole table with every comment is below 64 KiB.
	MaxFileBytes = 1 << 20
)

// otherVariables are environment variables of ours that are not keys: the command line's, and those of tests and tools.
// One that ends in an underscore stands for all that begin so.
func otherVariables() []string {
	return []string{"VARVE_BROKERS", "VARVE_CACHE", "VARVE_PG_BIN", "VARVE_VERSITYGW", "VARVE_E2E", "VARVE_E2E_", "VARVE_TEST_"}
}

// kafkaCounterparts names our key for some of Kafka's that mean the same under another name.
func kafkaCounterparts() map[string]string {
	return map[string]string{
		"node.id": "agent.id", "broker.id": "agent.id", "log.dirs": "data.dir", "log.dir": "data.dir",
		"zookeeper.connect": "metadata.url", "controller.quorum.voters": "metadata.url",
		"controller.quorum.bootstrap.servers": "metadata.url", "host.name": "listeners", "port": "listeners",
	}
}

// Load resolves an agent's configuration: file over defaults, environment over file, sets over environment. file holds
// key=value lines and comments, environ and sets hold NAME=value. It reports every mistake, not only the first.
func Load(file []byte, environ []string, sets []string) (*Agent, error) {
	a := &Agent{values: map[string]string{}, sources: map[string]Source{}}
	for _, k := range agentTable() {
		a.values[k.Name] = k.Default
	}
	errs := errors.Join(a.loadFile(file), a.loadEnviron(environ), a.loadSets(sets))
	if errs != nil {
		return nil, errs
	}
	if err := a.derive(); err != nil {
		return nil, err
	}
	if err := a.checkTogether(); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Agent) loadFile(file []byte) error {
	if len(file) > MaxFileBytes {
		return fmt.Errorf("the file has %d bytes, want at most %d", len(file), MaxFileBytes)
	}
	if !utf8.Valid(file) {
		return errors.New("the file is not UTF-8 text")
	}
	var errs []error
	seen := map[string]int{}
	number := 0
	for line := range bytes.Lines(file) {
		number++
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' || text[0] == '!' {
			continue
		}
		if err := a.assign(text, FromFile, seen, number); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", number, err))
		}
	}
	return errors.Join(errs...)
}

func (a *Agent) loadSets(sets []string) error {
	var errs []error
	for _, set := range sets {
		if err := a.assign(set, FromFlag, nil, 0); err != nil {
			errs = append(errs, fmt.Errorf("--set: %w", err)) // not the pair itself: its value may hold a password
		}
	}
	return errors.Join(errs...)
}

// assign takes one key=value. seen, where given, holds the lines of the keys met before.
func (a *Agent) assign(text string, from Source, seen map[string]int, line int) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return fmt.Errorf("got %q, want key=value", text)
	}
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	k, ok := AgentKey(name)
	if !ok {
		return unknown(name)
	}
	if before := seen[name]; before != 0 {
		return fmt.Errorf("%s stands in line %d already", name, before)
	}
	if seen != nil {
		seen[name] = line
	}
	return a.accept(k, value, from)
}

func (a *Agent) accept(k Key, value string, from Source) error {
	if err := k.Check(value); err != nil {
		return err
	}
	if k.Type == Boolean {
		value = strings.ToLower(value)
	}
	a.set(k.Name, value, from)
	return nil
}

func (a *Agent) loadEnviron(environ []string) error {
	keys := map[string]Key{}
	for _, k := range agentTable() {
		keys[k.Env()] = k
	}
	var errs []error
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, envPrefix) || otherVariable(name) {
			continue
		}
		k, ok := keys[name]
		if !ok {
			near := nearest(name, slices.Sorted(maps.Keys(keys)))
			errs = append(errs, fmt.Errorf("environment variable %s: no key has this name%s", name, didYouMean(near)))
			continue
		}
		if err := a.accept(k, value, FromEnvironment); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func otherVariable(name string) bool {
	return slices.ContainsFunc(otherVariables(), func(v string) bool {
		return name == v || strings.HasSuffix(v, "_") && strings.HasPrefix(name, v)
	})
}

// checkTogether finds what is wrong only in combination.
func (a *Agent) checkTogether() error {
	var errs []error
	atMost := func(low, high string) {
		if a.Int(low) > a.Int(high) {
			errs = append(errs, fmt.Errorf("%s: got %s, want at most %s, which is %s", low, a.String(low), high, a.String(high)))
		}
	}
	atMost("group.min.session.timeout.ms", "group.max.session.timeout.ms")
	atMost("flush.bytes", "produce.buffer.bytes")
	atMost("message.max.bytes", "socket.request.max.bytes")
	atMost("seal.extent.min.bytes", "seal.object.bytes")
	if two := 2 * a.Int("session.beat.ms"); two > a.Int("session.ttl.ms") {
		errs = append(errs, fmt.Errorf("session.ttl.ms: got %s, want at least %d, twice session.beat.ms, so that one lost beat fences nobody", a.String("session.ttl.ms"), two))
	}
	if least := leastJournal(a.Int("journal.file.bytes")); least > a.Int("journal.bytes") {
		errs = append(errs, fmt.Errorf("journal.bytes: got %s, want at least %d, two files of journal.file.bytes and their headers", a.String("journal.bytes"), least))
	}
	if two := 2 * a.Int("catalog.poll.ms"); two > a.Int("gc.grace.ms") {
		errs = append(errs, fmt.Errorf("gc.grace.ms: got %s, want at least %d, twice catalog.poll.ms, so that no agent still reads what is deleted", a.String("gc.grace.ms"), two))
	}
	return errors.Join(append(errs, a.checkAddresses()...)...)
}

// leastJournal is two files of so many bytes, a whole number of words, and their headers.
func leastJournal(file int64) int64 {
	const header, word = 8 * kib, 8
	return 2 * (header + (file+word-1)/word*word)
}

func (a *Agent) checkAddresses() (errs []error) {
	listeners := a.Listeners()
	advertised, _ := parseListeners(a.String("advertised.listeners"), 1)
	for _, adv := range advertised {
		if !slices.ContainsFunc(listeners, func(l Listener) bool { return l.Name == adv.Name }) {
			errs = append(errs, fmt.Errorf("advertised.listeners: %s is no name in listeners", adv.Name))
		}
	}
	open := map[string]string{}
	for _, l := range listeners {
		if l.AdvertisedHost == "" || unspecified(l.AdvertisedHost) {
			errs = append(errs, fmt.Errorf("advertised.listeners: want an address for %s, since clients cannot connect to %q", l.Name, l.Host))
		}
		if !loopback(l.Host) {
			open["listeners"] = l.Host
		}
	}
	if host, _, err := net.SplitHostPort(a.String("http.listen")); err != nil || !loopback(host) {
		open["http.listen"] = a.String("http.listen")
	}
	if a.Bool("listeners.insecure.allow") {
		return errs
	}
	for _, name := range slices.Sorted(maps.Keys(open)) {
		errs = append(errs, fmt.Errorf("%s: %q is open to other machines without encryption or authentication; if the network is trusted, set listeners.insecure.allow=true", name, open[name]))
	}
	return errs
}
