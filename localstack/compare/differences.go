package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

const (
	kafkaVersion = "4.2.1"
	goldenFile   = "testdata/kafka-" + kafkaVersion + ".json"
	tableFile    = "DIFFERENCES.md"
)

// answers is what one broker said in each case, in order.
type answers map[string][]answer

// answer is what came of one step, in one version or in several that follow each other.
type answer struct {
	Step        string
	First, Last int16
	Fields      map[string]string
}

func (a answers) requests() (n int) {
	for _, steps := range a {
		for _, s := range steps {
			n += int(s.Last-s.First) + 1
		}
	}
	return n
}

// folded joins answers that are the same in versions that follow each other.
func folded(in []answer) (out []answer) {
	for _, a := range in {
		if n := len(out); n > 0 && out[n-1].Step == a.Step && int(out[n-1].Last)+1 == int(a.First) && maps.Equal(out[n-1].Fields, a.Fields) {
			out[n-1].Last = a.Last
			continue
		}
		out = append(out, a)
	}
	return out
}

func unfolded(in []answer) (out []answer) {
	for _, a := range in {
		for v := int(a.First); v <= int(a.Last); v++ { // the last may be 32767
			out = append(out, answer{a.Step, int16(v), int16(v), a.Fields})
		}
	}
	return out
}

// writeAnswers writes a line for each answer, so that a change of one is a line of a diff.
func writeAnswers(file string, all answers) error {
	var out bytes.Buffer
	out.WriteString("{")
	for i, name := range slices.Sorted(maps.Keys(all)) {
		if i > 0 {
			out.WriteString(",")
		}
		fmt.Fprintf(&out, "\n%s: [", quoted(name))
		for k, a := range folded(all[name]) {
			if k > 0 {
				out.WriteString(",")
			}
			fmt.Fprintf(&out, "\n  %s", quoted(a))
		}
		out.WriteString("]")
	}
	out.WriteString("\n}\n")
	return os.WriteFile(file, out.Bytes(), 0o644)
}

func quoted(v any) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // strings and numbers always can be
	}
	return bytes.TrimSpace(out.Bytes())
}

func readAnswers(file string) (answers, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all answers
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for name, steps := range all {
		all[name] = unfolded(steps)
	}
	return all, nil
}

// difference is one field in which the brokers differ, in one or several versions.
type difference struct {
	c, step, field string
	first, last    int16
	kafka, varve   string
	reason         *reason
}

func (d difference) String() string {
	text := "no reason"
	if d.reason != nil {
		text = d.reason.Why
	}
	return fmt.Sprintf("%s | %s | %s | Kafka %s | Varve %s | %s", d.c, d.where(), d.field, d.kafka, d.varve, text)
}

func (d difference) where() string { return d.step + " " + versions(d.first, d.last) }

func versions(first, last int16) string {
	if first == last {
		return fmt.Sprintf("v%d", first)
	}
	return fmt.Sprintf("v%d–%d", first, last)
}

// reason explains differences. An empty pattern matches everything, * any number of characters.
type reason struct {
	Case, Step, Field, Kafka, Varve string
	Why                             string
}

func (r *reason) explains(d difference) bool {
	return matches(r.Case, d.c) && matches(r.Step, d.step) && matches(r.Field, d.field) && matches(r.Kafka, d.kafka) && matches(r.Varve, d.varve)
}

func matches(pattern, s string) bool {
	if pattern == "" {
		return true
	}
	parts := strings.Split(pattern, "*")
	s, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	if len(parts) == 1 {
		return s == ""
	}
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}

// comparison is what came of comparing.
type comparison struct {
	differences []difference
	problems    []string // cases and steps that only one side has
	unused      []reason
}

// absent stands for a field that one side does not have.
const absent = "absent"

func compare(kafka, varve answers, why []reason) *comparison {
	c := &comparison{}
	for _, name := range slices.Sorted(maps.Keys(kafka)) {
		if varve[name] == nil {
			c.problems = append(c.problems, fmt.Sprintf("case %q: only Kafka was asked", name))
			continue
		}
		c.compareCase(name, kafka[name], varve[name])
	}
	for name := range varve {
		if kafka[name] == nil {
			c.problems = append(c.problems, fmt.Sprintf("case %q: Kafka was not asked", name))
		}
	}
	used := make([]bool, len(why))
	for i := range c.differences {
		d := &c.differences[i]
		k := slices.IndexFunc(why, func(r reason) bool { return r.explains(*d) })
		if k >= 0 {
			d.reason, used[k] = &why[k], true
		}
	}
	for i, r := range why {
		if !used[i] {
			c.unused = append(c.unused, r)
		}
	}
	return c
}

func (c *comparison) compareCase(name string, kafka, varve []answer) {
	type id struct {
		step    string
		version int16
	}
	ours := map[id]answer{}
	for _, a := range varve {
		ours[id{a.Step, a.First}] = a
	}
	var found []difference
	for _, k := range kafka {
		v, ok := ours[id{k.Step, k.First}]
		if !ok {
			c.problems = append(c.problems, fmt.Sprintf("case %q: step %q v%d was not asked of Varve", name, k.Step, k.First))
			continue
		}
		delete(ours, id{k.Step, k.First})
		found = append(found, fieldByField(name, k, v)...)
	}
	for i := range ours {
		c.problems = append(c.problems, fmt.Sprintf("case %q: step %q v%d was not asked of Kafka", name, i.step, i.version))
	}
	c.differences = append(c.differences, joined(found)...)
}

// fieldByField names the element, not its fields, where only one side has it, and nothing but the fact where only one side
// has answered.
func fieldByField(name string, k, v answer) (out []difference) {
	fields := map[string]bool{}
	for f := range k.Fields {
		fields[f] = true
	}
	for f := range v.Fields {
		fields[f] = true
	}
	seen := map[string]bool{}
	for _, f := range slices.Sorted(maps.Keys(fields)) {
		d := difference{c: name, step: k.Step, first: k.First, last: k.First}
		if followsFromError(f, k.Fields, v.Fields) {
			continue
		}
		d.field, d.kafka, d.varve = oneSided(f, k.Fields, v.Fields)
		if d.kafka != d.varve && !seen[d.field] {
			seen[d.field] = true
			out = append(out, d)
		}
	}
	return out
}

// followsFromError says whether the error beside a field, or around it, differs: then the error is the difference.
func followsFromError(field string, k, v map[string]string) bool {
	for i := len(field) - 1; i >= 0; i-- {
		if field[i] != '.' && i != 0 {
			continue
		}
		code := "ErrorCode"
		if i > 0 {
			code = field[:i] + ".ErrorCode"
		}
		if code != field && k[code] != "" && v[code] != "" && k[code] != v[code] {
			return true
		}
	}
	return false
}

// there stands for an answer, or an element of a list, that the other side does not have.
const there = "there"

// oneSided finds the outermost part of a field's path that only one side has.
func oneSided(field string, k, v map[string]string) (part, kafka, varve string) {
	if k[""] != v[""] {
		return "", cmp.Or(k[""], there), cmp.Or(v[""], there)
	}
	for i, c := range field {
		if c != ']' {
			continue
		}
		part = field[:i+1]
		inKafka, inVarve := has(k, part), has(v, part)
		switch {
		case !inVarve:
			return part, there, absent
		case !inKafka:
			return part, absent, there
		}
	}
	if has(k, field+"[") || has(v, field+"[") {
		return field, "", "" // the elements of the other side tell
	}
	return field, valueIn(k, field), valueIn(v, field)
}

func has(fields map[string]string, prefix string) bool {
	for f := range fields {
		if strings.HasPrefix(f, prefix) {
			return true
		}
	}
	return false
}

func valueIn(fields map[string]string, field string) string {
	if s, ok := fields[field]; ok {
		return s
	}
	return absent
}

// joined makes one of differences that are the same in versions that follow each other.
func joined(in []difference) (out []difference) {
	for _, d := range in {
		i := slices.IndexFunc(out, func(o difference) bool {
			return o.step == d.step && o.field == d.field && o.kafka == d.kafka && o.varve == d.varve && o.last+1 == d.first
		})
		if i >= 0 {
			out[i].last = d.last
			continue
		}
		out = append(out, d)
	}
	return out
}

// err lists what must not be.
func (c *comparison) err() error {
	var errs []error
	for _, d := range c.differences {
		if d.reason == nil {
			errs = append(errs, fmt.Errorf("differs without a reason: %s", d))
		}
	}
	for _, p := range c.problems {
		errs = append(errs, errors.New(p))
	}
	for _, r := range c.unused {
		errs = append(errs, fmt.Errorf("a reason that explains nothing: %+v", r))
	}
	return errors.Join(errs...)
}

// table is DIFFERENCES.md: by reason, since that is what a reader asks for.
func (c *comparison) table(asked answers) []byte {
	var out bytes.Buffer
	out.WriteString("# Where Varve answers differently than Apache Kafka " + kafkaVersion + "\n\n")
	fmt.Fprintf(&out, "Written by `make compare-kafka`: %d cases with %d requests, sent to both, compared field by field. %s\n",
		len(asked), asked.requests(), "Numbers in front of cases are items of the protocol checklist.")
	out.WriteString("Ids, addresses, sizes, times close to now and the words of messages are not compared.\n")
	byReason := map[string][]difference{}
	var order []string
	for _, d := range c.differences {
		why := "**Defects: no reason is known**"
		if d.reason != nil {
			why = d.reason.Why
		}
		if byReason[why] == nil {
			order = append(order, why)
		}
		byReason[why] = append(byReason[why], d)
	}
	for _, why := range order {
		fmt.Fprintf(&out, "\n## %s\n\n| case | step | field | Kafka | Varve |\n|---|---|---|---|---|\n", why)
		for _, l := range lines(byReason[why]) {
			fmt.Fprintf(&out, "| %s | %s | %s | %s | %s |\n", cell(l.c), cell(strings.Join(l.steps, "; ")), cell(l.field), cell(l.kafka), cell(l.varve))
		}
	}
	return out.Bytes()
}

// line is differences of one case that are alike, whichever topic or partition they are of.
type line struct {
	c, field, kafka, varve string
	steps                  []string
}

func lines(ds []difference) (out []line) {
	for _, d := range ds {
		l := line{c: d.c, field: element.ReplaceAllString(d.field, "[]"), kafka: d.kafka, varve: d.varve}
		i := slices.IndexFunc(out, func(o line) bool {
			return o.c == l.c && o.field == l.field && o.kafka == l.kafka && o.varve == l.varve
		})
		if i < 0 {
			i, out = len(out), append(out, l)
		}
		if !slices.Contains(out[i].steps, d.where()) {
			out[i].steps = append(out[i].steps, d.where())
		}
	}
	return out
}

// element is what names an element of a list in a field's path, unless the field is about that very element.
var element = regexp.MustCompile(`\[(t?[0-9]+|-1|[abc](-[0-9]+)?)\]`)

func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "\n", " ", "*", `\*`).Replace(s)
}
