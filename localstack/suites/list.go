package main

import (
	"cmp"
	"embed"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

//go:embed *.list
var lists embed.FS

// A verdict is what a list says of a test.
type verdict string

const (
	pass verdict = "pass" // it passes, and may never fail again
	slow verdict = "slow" // the same, but only the full form takes the time
	skip verdict = "skip" // it does not apply, and the reason says why
)

// list holds what is known of a suite's tests, by name. It is a file of lines: "pass NAME", "slow NAME" or "skip NAME REASON".
type list struct {
	heading  string // the comment at its top
	verdicts map[string]verdict
	reasons  map[string]string
}

func readList(suite string) (list, error) {
	name := suite + ".list"
	text, err := lists.ReadFile(name)
	if err != nil {
		return list{}, err
	}
	l, err := parseList(string(text))
	if err != nil {
		return list{}, fmt.Errorf("%s: %w", name, err)
	}
	return l, nil
}

func parseList(text string) (list, error) {
	l := list{verdicts: map[string]verdict{}, reasons: map[string]string{}}
	for number, line := range strings.Split(text, "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			l.heading += line + "\n"
			continue
		}
		fields := strings.SplitN(line, " ", 3)
		v := verdict(fields[0])
		switch {
		case v != pass && v != slow && v != skip || len(fields) < 2:
			return l, fmt.Errorf("line %d: got %q, want pass NAME, slow NAME or skip NAME REASON", number+1, line)
		case l.verdicts[fields[1]] != "":
			return l, fmt.Errorf("line %d: %s stands here twice", number+1, fields[1])
		case v == skip && len(fields) < 3:
			return l, fmt.Errorf("line %d: %s does not apply, but there is no reason", number+1, fields[1])
		case v != skip && len(fields) > 2:
			return l, fmt.Errorf("line %d: got %q, want no more than the name", number+1, line)
		}
		l.verdicts[fields[1]] = v
		if v == skip {
			l.reasons[fields[1]] = fields[2]
		}
	}
	l.heading = strings.TrimRight(l.heading, "\n")
	return l, nil
}

// names are the tests with one of these verdicts, sorted.
func (l list) names(of ...verdict) (out []string) {
	for name, v := range l.verdicts {
		if slices.Contains(of, v) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// pattern names tests to go test, whose -run and -skip split it at slashes and bars.
func pattern(tests []string) string {
	out := make([]string, len(tests))
	for i, t := range tests {
		out[i] = "^" + strings.Join(strings.Split(t, "/"), "$/^") + "$"
	}
	return strings.Join(out, "|")
}

// add lists tests that passed, and what is slow as such: from slowFrom on, unless it is only the sum of other listed tests.
func (l list) add(passed []result, slowFrom time.Duration) list {
	l.verdicts = maps.Clone(l.verdicts)
	for _, r := range passed {
		if l.verdicts[r.test] == "" {
			l.verdicts[r.test] = pass
		}
	}
	for _, r := range passed {
		if slowFrom > 0 && r.seconds >= slowFrom.Seconds() && !l.listsWithin(r.test) {
			l.verdicts[r.test] = slow
		}
	}
	return l
}

func (l list) listsWithin(test string) bool {
	for name := range l.verdicts {
		if strings.HasPrefix(name, test+"/") {
			return true
		}
	}
	return false
}

func (l list) String() string {
	order := []verdict{skip, slow, pass}
	tests := slices.SortedFunc(maps.Keys(l.verdicts), func(a, b string) int {
		return cmp.Or(slices.Index(order, l.verdicts[a])-slices.Index(order, l.verdicts[b]), strings.Compare(a, b))
	})
	var text strings.Builder
	text.WriteString(l.heading + "\n")
	before := verdict("")
	for _, t := range tests {
		if v := l.verdicts[t]; v != before {
			text.WriteString("\n")
			before = v
		}
		text.WriteString(strings.TrimSpace(string(l.verdicts[t])+" "+t+" "+l.reasons[t]) + "\n")
	}
	return text.String()
}

func (l list) write(file string) error { return os.WriteFile(file, []byte(l.String()), 0o644) }
