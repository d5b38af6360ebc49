package objectstore

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Scheme names a driver.
type Scheme string

const (
	Memory Scheme = "memory"
	File   Scheme = "file"
	S3     Scheme = "s3"    // aws-sdk-go-v2: the one to take for AWS
	MinIO  Scheme = "minio" // minio-go: the one to take for MinIO and its like
)

// URL says which store is meant. Credentials are never part of it: they come from the environment.
type URL struct {
	Scheme Scheme
	// Dir is the folder of a file store, absolute.
	Dir string
	// Bucket, and Prefix inside it without slashes at its ends; "" is the whole bucket.
	Bucket, Prefix string
	// Endpoint has a scheme and no path; "" is AWS itself.
	Endpoint string
	// Region is "" where the environment shall decide.
	Region string
	// PathStyle puts the bucket into the path and not into the host name. Default: true with an endpoint, else false.
	PathStyle bool
}

// ParseURL reads the value of store.url and names every mistake in it at once:
//
//	file:///DIR    memory:    s3://BUCKET/PREFIX?endpoint=…&region=…&path-style=true    minio://… (the same parameters)
func ParseURL(raw string) (URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// The parser's message repeats the whole input, which may hold a password.
		return URL{}, errors.New("store.url: not a URL; write file:///DIR, memory:, s3://BUCKET/PREFIX or minio://BUCKET/PREFIX")
	}
	var parsed URL
	var problems []error
	switch Scheme(u.Scheme) {
	case Memory:
		parsed, problems = parseMemory(u)
	case File:
		parsed, problems = parseFile(u)
	case S3, MinIO:
		parsed, problems = parseBucket(u)
	default:
		problems = []error{fmt.Errorf("scheme %q is unknown; known are file, memory, s3 and minio", u.Scheme)}
	}
	if u.User != nil {
		problems = append(problems, errors.New("credentials do not belong into the URL; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"))
	}
	if u.Fragment != "" {
		problems = append(problems, fmt.Errorf("what follows # (%q) means nothing here", u.Fragment))
	}
	if err := errors.Join(problems...); err != nil {
		return URL{}, fmt.Errorf("store.url: %w", err)
	}
	return parsed, nil
}

// String is the URL in its shortest form; ParseURL reads it back.
func (u URL) String() string {
	switch u.Scheme {
	case Memory:
		return "memory:"
	case File:
		return (&url.URL{Scheme: "file", Path: u.Dir}).String()
	}
	q := url.Values{}
	if u.Endpoint != "" {
		q.Set("endpoint", u.Endpoint)
	}
	if u.Region != "" {
		q.Set("region", u.Region)
	}
	if u.PathStyle != (u.Endpoint != "") {
		q.Set("path-style", strconv.FormatBool(u.PathStyle))
	}
	out := url.URL{Scheme: string(u.Scheme), Host: u.Bucket, RawQuery: q.Encode()}
	if u.Prefix != "" {
		out.Path = "/" + u.Prefix
	}
	return out.String()
}

func parseMemory(u *url.URL) (URL, []error) {
	if u.Opaque != "" || u.Host != "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return URL{}, []error{errors.New("memory: takes nothing behind the colon")}
	}
	return URL{Scheme: Memory}, nil
}

func parseFile(u *url.URL) (URL, []error) {
	var problems []error
	switch {
	case u.Host != "":
		problems = append(problems, fmt.Errorf("file://%s has two slashes; an absolute folder has three: file:///%s%s", u.Host, u.Host, u.Path))
	case u.Opaque != "" || !strings.HasPrefix(u.Path, "/"):
		problems = append(problems, errors.New("file: needs an absolute folder: file:///DIR"))
	}
	if strings.ContainsRune(u.Path, 0) {
		problems = append(problems, errors.New("the folder contains a zero byte"))
	}
	if u.RawQuery != "" {
		problems = append(problems, errors.New("file: takes no parameters"))
	}
	return URL{Scheme: File, Dir: u.Path}, problems
}

func parseBucket(u *url.URL) (URL, []error) {
	parsed := URL{Scheme: Scheme(u.Scheme), Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	var problems []error
	report := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	if u.Opaque != "" {
		report(fmt.Errorf("two slashes are missing: %s://BUCKET/PREFIX", u.Scheme))
	} else {
		report(checkBucket(parsed.Bucket))
	}
	if parsed.Prefix != "" {
		if err := CheckKey(parsed.Prefix); err != nil {
			report(fmt.Errorf("prefix %q: %w", parsed.Prefix, err))
		}
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		report(errors.New("the parameters behind ? are not name=value pairs joined by &"))
	}
	report(parsed.readParameters(q))
	return parsed, problems
}

func (u *URL) readParameters(q url.Values) error {
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(q)) {
		value := q.Get(name)
		var err error
		switch {
		case len(q[name]) > 1:
			err = fmt.Errorf("parameter %s is there %d times", name, len(q[name]))
		case name == "endpoint":
			u.Endpoint, err = parseEndpoint(value)
		case name == "region":
			u.Region, err = value, checkRegion(value)
		case name == "path-style":
			if u.PathStyle, err = strconv.ParseBool(value); err != nil {
				err = fmt.Errorf("path-style=%q is neither true nor false", value)
			}
		default:
			err = fmt.Errorf("parameter %q is unknown; known are endpoint, region and path-style", name)
		}
		problems = append(problems, err)
	}
	if !q.Has("path-style") {
		u.PathStyle = u.Endpoint != ""
	}
	if u.Scheme == MinIO && !q.Has("endpoint") {
		problems = append(problems, errors.New("minio:// needs endpoint=HOST:PORT (for AWS take s3://)"))
	}
	return errors.Join(problems...)
}

// checkBucket holds to S3's rules for names; dots are allowed, though virtual hosts over TLS do not work with them.
func checkBucket(name string) error {
	if name == "" {
		return errors.New("the bucket is missing: s3://BUCKET/PREFIX")
	}
	ok := len(name) >= 3 && len(name) <= 63
	for i := range len(name) {
		b := name[i]
		alnum := 'a' <= b && b <= 'z' || '0' <= b && b <= '9'
		inner := i > 0 && i < len(name)-1 && (b == '-' || b == '.')
		ok = ok && (alnum || inner)
	}
	if !ok {
		return fmt.Errorf("%q is no bucket name: 3 to 63 of a-z 0-9 - . with a letter or digit at both ends", name)
	}
	return nil
}

func checkRegion(region string) error {
	for i := range len(region) {
		if !keyByte(region[i]) {
			return fmt.Errorf("region=%q contains %q", region, region[i])
		}
	}
	if region == "" || len(region) > 64 {
		return fmt.Errorf("region=%q should look like eu-central-1", region)
	}
	return nil
}

// parseEndpoint adds the scheme: https, but http for a loopback address, where a certificate is rarely at hand.
func parseEndpoint(raw string) (string, error) {
	full := raw
	if !strings.Contains(raw, "://") {
		full = "https://" + raw
	}
	u, err := url.Parse(full)
	if err != nil || u.Hostname() == "" {
		return "", errors.New("endpoint is not HOST:PORT or http(s)://HOST:PORT")
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("endpoint has scheme %q; write http:// or https://", u.Scheme)
	}
	if u.User != nil {
		return "", errors.New("endpoint must not hold credentials")
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("endpoint must end after the port, but has %q behind it", u.RequestURI())
	}
	if full != raw && loopback(u.Hostname()) {
		u.Scheme = "http"
	}
	return u.Scheme + "://" + u.Host, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
