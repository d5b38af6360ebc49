package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"varve.dev/objectstore"
)

// checkCleanup refuses compaction in words of its own: silently keeping every record would be a surprise a year later.
func checkCleanup(value string) error {
	for _, word := range Split(value) {
		switch word {
		case "delete":
		case "compact":
			return errors.New("compact is not offered: this version keeps all records until retention deletes them, and never by key; set it to delete")
		default:
			return fmt.Errorf("got %q, want delete", word)
		}
	}
	if len(Split(value)) == 0 {
		return errors.New("got nothing, want delete")
	}
	return nil
}

func gzipLevel(value string) error {
	if value == "0" {
		return errors.New("got 0, want -1 for the codec's own default or a level from 1 to 9")
	}
	return nil
}

func notEmpty(value string) error {
	if strings.TrimSpace(value) == "" {
		return errors.New("got nothing, want a path")
	}
	return nil
}

func checkMetadataURL(value string) error {
	scheme, rest, _ := strings.Cut(value, ":")
	switch {
	case value == "":
		return nil
	case scheme == "sqlite" && rest != "":
		return nil
	case (scheme == "postgres" || scheme == "postgresql") && strings.HasPrefix(rest, "//"):
		if _, err := url.Parse(value); err != nil {
			return errors.New("it does not parse as postgres://USER@HOST:PORT/DATABASE") // the value may hold a password
		}
		return nil
	}
	return errors.New("want sqlite:PATH or postgres://USER@HOST:PORT/DATABASE")
}

// checkStoreURL leaves the judgement to the store, and puts all of it into one sentence.
func checkStoreURL(value string) error {
	if value == "" {
		return nil
	}
	if _, err := objectstore.ParseURL(value); err != nil {
		text := strings.TrimPrefix(err.Error(), "store.url: ")
		return errors.New(strings.ReplaceAll(text, "\n", "; "))
	}
	return nil
}

func checkHostPort(value string) error {
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		return fmt.Errorf("got %q, want HOST:PORT", value)
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("got port %q, want 0 to 65535", port)
	} else if host == "" && p == 0 {
		return errors.New("got neither a host nor a port, want HOST:PORT")
	}
	return nil
}

func checkListeners(value string) error {
	_, err := parseListeners(value, 0)
	return err
}

func checkAdvertised(value string) error {
	if value == "" {
		return nil
	}
	list, err := parseListeners(value, 1)
	if err != nil {
		return err
	}
	for _, l := range list {
		if l.Host == "" || unspecified(l.Host) {
			return fmt.Errorf("%s: clients cannot connect to %q, want a name or an address of this machine", l.Name, l.Host)
		}
	}
	return nil
}

// parseListeners reads NAME://HOST:PORT,… with ports of at least minPort.
func parseListeners(value string, minPort uint64) ([]Listener, error) {
	var list []Listener
	for _, item := range Split(value) {
		l, err := parseListener(item, minPort)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(list, func(o Listener) bool { return o.Name == l.Name }) {
			return nil, fmt.Errorf("the name %s stands there twice", l.Name)
		}
		list = append(list, l)
	}
	if len(list) == 0 {
		return nil, errors.New("got nothing, want NAME://HOST:PORT")
	}
	return list, nil
}

func parseListener(item string, minPort uint64) (Listener, error) {
	name, address, ok := strings.Cut(item, "://")
	if !ok || name == "" {
		return Listener{}, fmt.Errorf("got %q, want NAME://HOST:PORT", item)
	}
	name = strings.ToUpper(name)
	if slices.Contains([]string{"SSL", "SASL_PLAINTEXT", "SASL_SSL"}, name) {
		return Listener{}, fmt.Errorf("%s: this version has no TLS and no SASL, want PLAINTEXT or a name of your own", name)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return Listener{}, fmt.Errorf("got %q, want NAME://HOST:PORT", item)
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p < minPort {
		return Listener{}, fmt.Errorf("%s: got port %q, want %d to 65535", name, port, minPort)
	}
	return Listener{Name: name, Host: host, Port: int(p)}, nil
}

func unspecified(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsUnspecified()
}

// loopback says whether only this machine can reach host. A name is taken for what it usually means: only localhost is.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback() || strings.EqualFold(host, "localhost")
}
