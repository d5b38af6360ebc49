// Package config is the one table of every key: its name, unit, default, range and a sentence, for agents, topics and groups.
package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Type says how a key's value is written. The numbers are those of ConfigDef.Type as DescribeConfigs v3+ reports them.
type Type int8

const (
	Boolean  Type = 1
	String   Type = 2
	Int      Type = 3
	Short    Type = 4
	Long     Type = 5
	Double   Type = 6
	List     Type = 7
	Class    Type = 8
	Password Type = 9
)

func (t Type) String() string {
	names := [...]string{"unknown", "boolean", "string", "int", "short", "long", "double", "list", "class", "password"}
	if t < 0 || int(t) >= len(names) {
		return names[0]
	}
	return names[t]
}

// Key is one line of the table.
type Key struct {
	Name string
	// Group is the heading under which the page shows the key.
	Group string
	// Doc is one sentence that says what the key does.
	Doc string
	// Unit is what a number counts: "ms", "bytes" … Empty for what has none.
	Unit string
	// Default is the value without any setting. Empty where Doc says what it is derived from.
	Default string
	Type    Type
	// Min and Max bound a number, both inclusive.
	Min, Max int64
	// Valid lists the words allowed, for a key that takes words.
	Valid []string
	// AgentKey is, for a topic's key, the agent's key that gives its default.
	AgentKey string
	// Dynamic keys can be altered while agents run.
	Dynamic bool
	// Sensitive values are never shown.
	Sensitive bool
	// Inert says why the key is accepted but has no effect here; empty for a key that has one.
	Inert string

	check func(value string) error // what type, range and words cannot say
}

// Check says whether value may be given to the key, and if not what is wrong and what is allowed.
func (k Key) Check(value string) error {
	if err := k.checkType(value); err != nil {
		return fmt.Errorf("%s: %w", k.Name, err)
	}
	if k.check == nil {
		return nil
	}
	if err := k.check(value); err != nil {
		return fmt.Errorf("%s: %w", k.Name, err)
	}
	return nil
}

func (k Key) checkType(value string) error {
	switch k.Type {
	case Boolean:
		if !isBool(value) {
			return fmt.Errorf("got %q, want true or false", value)
		}
	case Int, Short, Long:
		if value == "" && k.Default == "" {
			return nil // as if it were not set: the derived default holds
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return fmt.Errorf("got %q, want %s", value, k.Range())
		}
		if n < k.Min || n > k.Max {
			return fmt.Errorf("got %d, want %s", n, k.Range())
		}
	case Double:
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || !(f >= float64(k.Min) && f <= float64(k.Max)) {
			return fmt.Errorf("got %q, want %s", value, k.Range())
		}
	case List:
		return k.checkWords(Split(value))
	default:
		return k.checkWords([]string{value})
	}
	return nil
}

func (k Key) checkWords(words []string) error {
	if len(k.Valid) == 0 || k.check != nil && k.Type == List {
		return nil // a list's own check names the word and why
	}
	for _, w := range words {
		if !slices.Contains(k.Valid, w) {
			return fmt.Errorf("got %q, want %s", w, k.Range())
		}
	}
	return nil
}

// Range says in words what the key takes.
func (k Key) Range() string {
	switch {
	case k.Type == Boolean:
		return "true or false"
	case len(k.Valid) == 1:
		return k.Valid[0]
	case len(k.Valid) > 1:
		return "one of " + strings.Join(k.Valid, ", ")
	case !k.numeric():
		return "text"
	case k.Max == maxLong && k.Min == minLong:
		return "a whole number"
	case k.Max == maxLong:
		return fmt.Sprintf("a whole number of at least %d%s", k.Min, k.unit())
	case k.Type == Double:
		return fmt.Sprintf("a number from %d to %d", k.Min, k.Max)
	}
	return fmt.Sprintf("a whole number from %d to %d%s", k.Min, k.Max, k.unit())
}

func (k Key) unit() string {
	if k.Unit == "" {
		return ""
	}
	return " " + k.Unit
}

func (k Key) numeric() bool {
	return k.Type == Int || k.Type == Short || k.Type == Long || k.Type == Double
}

// Env is the environment variable that sets an agent's key.
func (k Key) Env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(k.Name, ".", "_"))
}

// Split takes a list's value apart at its commas; an empty value is an empty list.
func Split(value string) []string {
	if strings.TrimSpace(value) == "" {
		return nil
	}
	words := strings.Split(value, ",")
	for i := range words {
		words[i] = strings.TrimSpace(words[i])
	}
	return words
}

func isBool(value string) bool {
	return strings.EqualFold(value, "true") || strings.EqualFold(value, "false")
}

// AgentKeys are the keys of an agent, sorted by name.
func AgentKeys() []Key { return sorted(agentTable()) }

// TopicKeys are the keys of a topic, sorted by name.
func TopicKeys() []Key { return sorted(topicTable()) }

// GroupKeys are the keys of a consumer group, sorted by name.
func GroupKeys() []Key { return sorted(groupTable()) }

// AgentKey finds an agent's key by name.
func AgentKey(name string) (Key, bool) { k, ok := agentIndex()[name]; return k, ok }

// TopicKey finds a topic's key by name.
func TopicKey(name string) (Key, bool) { k, ok := topicIndex()[name]; return k, ok }

// GroupKey finds a group's key by name.
func GroupKey(name string) (Key, bool) { k, ok := groupIndex()[name]; return k, ok }

func sorted(keys []Key) []Key {
	slices.SortFunc(keys, func(a, b Key) int { return strings.Compare(a.Name, b.Name) })
	return keys
}

func index(keys []Key) map[string]Key {
	m := make(map[string]Key, len(keys))
	for _, k := range keys {
		m[k.Name] = k
	}
	return m
}
