package config

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// Entry is a key as JSON shows it.
type Entry struct {
	Scope       string   `json:"scope"` // agent, topic or group
	Group       string   `json:"group"`
	Name        string   `json:"name"`
	Type        string   `json:"type"`
	Unit        string   `json:"unit,omitempty"`
	Default     string   `json:"default"`
	Min         *int64   `json:"min,omitempty"`
	Max         *int64   `json:"max,omitempty"`
	Valid       []string `json:"valid,omitempty"`
	AgentKey    string   `json:"agent_key,omitempty"`
	Environment string   `json:"environment,omitempty"`
	Dynamic     bool     `json:"dynamic"`
	Sensitive   bool     `json:"sensitive"`
	NoEffect    string   `json:"no_effect,omitempty"`
	Doc         string   `json:"doc"`
}

// Entries is the whole table, in the page's order.
func Entries() []Entry {
	var all []Entry
	for _, s := range scopes() {
		for _, k := range s.keys {
			all = append(all, s.entry(k))
		}
	}
	return all
}

type scope struct {
	name, title string
	keys        []Key
}

func scopes() []scope {
	return []scope{
		{"agent", "Keys of an agent: in its file, as --set key=value, or as VARVE_ and the key in capitals with underscores for dots", agentTable()},
		{"topic", "Keys of a topic: varve topic create --config key=value, or any Kafka client", topicTable()},
		{"group", "Keys of a consumer group", groupTable()},
	}
}

func (s scope) entry(k Key) Entry {
	e := Entry{
		Scope: s.name, Group: k.Group, Name: k.Name, Type: k.Type.String(), Unit: k.Unit, Default: k.Default, Valid: k.Valid,
		AgentKey: k.AgentKey, Dynamic: k.Dynamic || s.name != "agent", Sensitive: k.Sensitive, NoEffect: k.Inert, Doc: k.Doc,
	}
	if k.numeric() {
		e.Min, e.Max = &k.Min, &k.Max
	}
	if s.name == "agent" {
		e.Environment = k.Env()
	}
	return e
}

// WritePage writes the table as a page of text.
func WritePage(w io.Writer) error {
	var b strings.Builder
	for _, s := range scopes() {
		fmt.Fprintf(&b, "%s\n", s.title)
		group := ""
		for _, k := range s.keys {
			if k.Group != group {
				group = k.Group
				fmt.Fprintf(&b, "\n  %s\n", group)
			}
			k.write(&b)
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (k Key) write(b *strings.Builder) {
	fmt.Fprintf(b, "\n    %s = %s\n", k.Name, cmp.Or(k.pretty(k.Default), "(empty)"))
	wrap(b, "      ", k.Doc)
	wrap(b, "      ", k.notes())
}

func (k Key) notes() string {
	notes := []string{k.Type.String() + ", " + k.prettyRange() + "."}
	if k.AgentKey != "" {
		notes = append(notes, "Default from the agent's "+k.AgentKey+".")
	}
	if k.Dynamic {
		notes = append(notes, "Can be altered while agents run.")
	}
	if k.Inert != "" {
		notes = append(notes, "Accepted, without effect: "+k.Inert+".")
	}
	return strings.Join(notes, " ")
}

func (k Key) prettyRange() string {
	if !k.numeric() || len(k.Valid) > 0 {
		return k.Range()
	}
	if k.Max == math.MaxInt64 {
		if k.Min == math.MinInt64 {
			return "any number"
		}
		return "at least " + k.pretty(strconv.FormatInt(k.Min, 10))
	}
	return k.pretty(strconv.FormatInt(k.Min, 10)) + " to " + k.pretty(strconv.FormatInt(k.Max, 10))
}

// pretty adds to a number of bytes or milliseconds what people call it, where that is a whole number.
func (k Key) pretty(value string) string {
	v, err := strconv.ParseInt(value, 10, 64)
	if err != nil || v <= 0 {
		return value
	}
	var units []unit
	switch k.Unit {
	case "bytes":
		units = []unit{{tib, "TiB"}, {gib, "GiB"}, {mib, "MiB"}, {kib, "KiB"}}
	case "ms":
		units = []unit{{day, "days"}, {hour, "h"}, {minute, "min"}, {second, "s"}}
	}
	for _, u := range units {
		if v >= u.size && v%u.size == 0 {
			return fmt.Sprintf("%d (%d %s)", v, v/u.size, u.name)
		}
	}
	return value
}

type unit struct {
	size int64
	name string
}

// wrap breaks text into lines of at most width letters.
func wrap(b *strings.Builder, indent, text string) {
	const width = 100
	column := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
			b.WriteString(indent)
			column = len(indent)
		case column+1+len(word) > width:
			b.WriteString("\n" + indent)
			column = len(indent)
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	b.WriteByte('\n')
}
