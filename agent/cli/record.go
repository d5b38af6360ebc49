package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// jsonRecord is a record as one line of JSON, written by consume and read by produce. Bytes that are not UTF-8 go into
// the field with _base64; a null key or value stays away.
type jsonRecord struct {
	Topic       string       `json:"topic,omitempty"`
	Partition   *int32       `json:"partition,omitempty"`
	Offset      *int64       `json:"offset,omitempty"`
	Timestamp   *int64       `json:"timestamp,omitempty"`
	Key         *string      `json:"key,omitempty"`
	KeyBase64   []byte       `json:"key_base64,omitempty"`
	Value       *string      `json:"value,omitempty"`
	ValueBase64 []byte       `json:"value_base64,omitempty"`
	Headers     []jsonHeader `json:"headers,omitempty"`
}

type jsonHeader struct {
	Key         string  `json:"key"`
	Value       *string `json:"value,omitempty"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
}

func toJSON(r *kgo.Record) jsonRecord {
	millis := r.Timestamp.UnixMilli()
	j := jsonRecord{Topic: r.Topic, Partition: &r.Partition, Offset: &r.Offset, Timestamp: &millis}
	j.Key, j.KeyBase64 = textOrBytes(r.Key)
	j.Value, j.ValueBase64 = textOrBytes(r.Value)
	for _, h := range r.Headers {
		header := jsonHeader{Key: h.Key}
		header.Value, header.ValueBase64 = textOrBytes(h.Value)
		j.Headers = append(j.Headers, header)
	}
	return j
}

func textOrBytes(b []byte) (*string, []byte) {
	if b == nil {
		return nil, nil
	}
	if !utf8.Valid(b) {
		return nil, b
	}
	s := string(b)
	return &s, nil
}

func fromJSON(line []byte) (*kgo.Record, error) {
	var j jsonRecord
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("more than one JSON value in a line")
	}
	r := &kgo.Record{Key: bytesOf(j.Key, j.KeyBase64), Value: bytesOf(j.Value, j.ValueBase64), Partition: -1}
	for _, h := range j.Headers {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: bytesOf(h.Value, h.ValueBase64)})
	}
	if j.Timestamp != nil {
		r.Timestamp = time.UnixMilli(*j.Timestamp)
	}
	if j.Partition != nil {
		r.Partition = *j.Partition
	}
	return r, nil
}

func bytesOf(text *string, raw []byte) []byte {
	if text != nil {
		return []byte(*text)
	}
	return raw
}

// verb appends one part of a record.
type verb func(dst []byte, r *kgo.Record) []byte

// parseFormat reads a layout of text, the escapes \n \t \r \0 \\ \xNN, and:
//
//	%t topic  %p partition  %o offset  %e leader epoch  %T timestamp in ms  %d timestamp as a date
//	%k key  %K its length  %v or %s value  %V or %S its length  %h headers as k=v,k=v  %H their number  %% percent
//
// These are kcat's letters, with %v beside its %s. A null key or value is written as NULL, its length as -1.
func parseFormat(layout string) ([]verb, error) {
	var verbs []verb
	var literal []byte
	for i := 0; i < len(layout); i++ {
		c := layout[i]
		switch {
		case c == '\\':
			b, n, err := escape(layout[i+1:])
			if err != nil {
				return nil, err
			}
			literal = append(literal, b)
			i += n
		case c != '%':
			literal = append(literal, c)
		case strings.HasPrefix(layout[i:], "%%"):
			literal = append(literal, '%')
			i++
		default:
			v, err := parseVerb(layout[i+1:])
			if err != nil {
				return nil, err
			}
			verbs = append(verbs, constant(literal), v)
			literal = nil
			i++
		}
	}
	return append(verbs, constant(literal)), nil
}

func constant(b []byte) verb {
	return func(dst []byte, _ *kgo.Record) []byte { return append(dst, b...) }
}

func number(of func(*kgo.Record) int64) verb {
	return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, of(r), 10) }
}

func parseVerb(rest string) (verb, error) {
	if rest == "" {
		return nil, errors.New("--format ends in a lone %: write %% for the sign itself")
	}
	switch rest[0] {
	case 't':
		return func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Topic...) }, nil
	case 'p':
		return number(func(r *kgo.Record) int64 { return int64(r.Partition) }), nil
	case 'o':
		return number(func(r *kgo.Record) int64 { return r.Offset }), nil
	case 'e':
		return number(func(r *kgo.Record) int64 { return int64(r.LeaderEpoch) }), nil
	case 'T':
		return number(func(r *kgo.Record) int64 { return r.Timestamp.UnixMilli() }), nil
	case 'd':
		return func(dst []byte, r *kgo.Record) []byte {
			return r.Timestamp.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
		}, nil
	case 'k':
		return func(dst []byte, r *kgo.Record) []byte { return appendNullable(dst, r.Key) }, nil
	case 'K':
		return number(func(r *kgo.Record) int64 { return nullableLen(r.Key) }), nil
	case 'v', 's':
		return func(dst []byte, r *kgo.Record) []byte { return appendNullable(dst, r.Value) }, nil
	case 'V', 'S':
		return number(func(r *kgo.Record) int64 { return nullableLen(r.Value) }), nil
	case 'h':
		return appendHeaders, nil
	case 'H':
		return number(func(r *kgo.Record) int64 { return int64(len(r.Headers)) }), nil
	}
	return nil, fmt.Errorf("--format: %%%c is unknown, want one of %%t %%p %%o %%e %%T %%d %%k %%K %%v %%V %%h %%H %%%%", rest[0])
}

func appendNullable(dst, b []byte) []byte {
	if b == nil {
		return append(dst, "NULL"...)
	}
	return append(dst, b...)
}

func nullableLen(b []byte) int64 {
	if b == nil {
		return -1
	}
	return int64(len(b))
}

func appendHeaders(dst []byte, r *kgo.Record) []byte {
	for i, h := range r.Headers {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(dst, h.Key...), '=')
		dst = appendNullable(dst, h.Value)
	}
	return dst
}

// escape reads what follows a backslash, and how many bytes of it were taken.
func escape(rest string) (byte, int, error) {
	if rest == "" {
		return 0, 0, errors.New(`--format ends in a lone \: write \\ for the sign itself`)
	}
	switch rest[0] {
	case 'n':
		return '\n', 1, nil
	case 't':
		return '\t', 1, nil
	case 'r':
		return '\r', 1, nil
	case '0':
		return 0, 1, nil
	case '\\':
		return '\\', 1, nil
	case 'x':
		if len(rest) >= 3 {
			if b, err := strconv.ParseUint(rest[1:3], 16, 8); err == nil {
				return byte(b), 3, nil
			}
		}
	}
	return 0, 0, fmt.Errorf(`--format: \%c is unknown, want \n \t \r \0 \\ or \xNN`, rest[0])
}

// unescape reads the escapes of a separator, such as \t.
func unescape(text string) (string, error) {
	var out []byte
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			out = append(out, text[i])
			continue
		}
		b, n, err := escape(text[i+1:])
		if err != nil {
			return "", err
		}
		out = append(out, b)
		i += n
	}
	return string(out), nil
}

// recordWriter writes records in one form.
type recordWriter func(w io.Writer, r *kgo.Record) error

func formatWriter(layout string) (recordWriter, error) {
	verbs, err := parseFormat(layout)
	if err != nil {
		return nil, usageError{err}
	}
	var buf []byte
	return func(w io.Writer, r *kgo.Record) error {
		buf = buf[:0]
		for _, v := range verbs {
			buf = v(buf, r)
		}
		_, err := w.Write(buf)
		return err
	}, nil
}

func jsonWriter(w io.Writer, r *kgo.Record) error {
	line, err := json.Marshal(toJSON(r))
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// encodedLen says how long base64 makes n bytes; lines of JSON may be that much longer than records.
func encodedLen(n int) int { return base64.StdEncoding.EncodedLen(n) }
