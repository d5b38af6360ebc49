package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// endpoints are where an agent answers.
type endpoints struct{ kafka, http string }

// figures are what the agent counts of itself.
type figures struct {
	puts, gets, walObjects, segments, unsealedObjects, unsealedBytes float64
}

// metric is a name of the agent's /metrics page, and the kind where it is counted by kind.
type metric struct{ name, kind string }

// places says which figure each metric is.
func (f *figures) places() map[metric]*float64 {
	return map[metric]*float64{
		{"varve_objectstore_requests_total", "put"}: &f.puts,
		{"varve_objectstore_requests_total", "get"}: &f.gets,
		{"varve_wal_objects_total", ""}:             &f.walObjects,
		{"varve_segments_total", ""}:                &f.segments,
		{"varve_unsealed_objects", ""}:              &f.unsealedObjects,
		{"varve_unsealed_bytes", ""}:                &f.unsealedBytes,
	}
}

// parseFigures reads Prometheus's text format, as much of it as the agent writes. Every figure must be there: one that
// is missing would read as zero, which is what this waits for.
func parseFigures(page io.Reader) (f figures, err error) {
	places := f.places()
	missing := f.places()
	scan := bufio.NewScanner(page)
	for scan.Scan() {
		m, value, ok := parseSample(scan.Text())
		if !ok {
			continue
		}
		if place := places[m]; place != nil {
			*place += value
			delete(missing, m)
		}
	}
	for m := range missing {
		err = errors.Join(err, fmt.Errorf("the agent's metrics lack %s %s", m.name, m.kind))
	}
	return f, errors.Join(scan.Err(), err)
}

// parseSample reads NAME{LABELS} VALUE.
func parseSample(line string) (m metric, value float64, ok bool) {
	series, number, ok := cutLast(line, ' ')
	if !ok || strings.HasPrefix(line, "#") {
		return m, 0, false
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return m, 0, false
	}
	name, labels, _ := strings.Cut(series, "{")
	m.name = name
	for _, label := range strings.Split(strings.TrimSuffix(labels, "}"), ",") {
		if kind, ok := strings.CutPrefix(label, `kind="`); ok {
			m.kind = strings.TrimSuffix(kind, `"`)
		}
	}
	return m, value, true
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func (e endpoints) figures(ctx context.Context) (figures, error) {
	body, err := e.call(ctx, http.MethodGet, "/metrics")
	if err != nil {
		return figures{}, err
	}
	return parseFigures(strings.NewReader(body))
}

// evict drops the agent's local copies of what is in the object store.
func (e endpoints) evict(ctx context.Context) error {
	_, err := e.call(ctx, http.MethodPost, "/debug/evict")
	return err
}

func (e endpoints) call(ctx context.Context, method, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+e.http+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	const maxPage = 16 << 20
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode/100 != 2 {
		return "", fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, lastLine(body))
	}
	return string(body), nil
}
