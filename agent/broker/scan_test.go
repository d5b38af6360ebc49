package broker

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// fill sets every field of a request at random, unknown tags too.
func fill(v reflect.Value, rng *rand.Rand) {
	if v.Type() == reflect.TypeFor[kmsg.Tags]() {
		for range rng.IntN(3) {
			v.Addr().Interface().(*kmsg.Tags).Set(100+rng.Uint32N(1000), make([]byte, rng.IntN(300)))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "Version" {
				fill(v.Field(i), rng)
			}
		}
	case reflect.Pointer:
		if rng.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), rng)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), rng.IntN(4), 4))
		for i := range v.Len() {
			fill(v.Index(i), rng)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), rng)
		}
	case reflect.String:
		v.SetString(string(make([]byte, rng.IntN(200))))
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(rng.Int64() >> (64 - v.Type().Bits()))
	case reflect.Uint8:
		v.SetUint(rng.Uint64N(256))
	default:
		panic(v.Kind().String())
	}
}

// eachFlexible is every request that has a shape, in every flexible version.
func eachFlexible(do func(req kmsg.Request)) {
	for key := range shapes() {
		req := key.Request()
		for version := range req.MaxVersion() + 1 {
			if req.SetVersion(version); req.IsFlexible() {
				do(req)
			}
		}
	}
}

// A shape leads over exactly the bytes that kmsg writes.
func TestShapesAreThoseOfKmsg(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	eachFlexible(func(req kmsg.Request) {
		name, version := kmsg.NameForKey(req.Key()), req.GetVersion()
		for range 100 {
			fill(reflect.ValueOf(req).Elem(), rng)
			req.SetVersion(version)
			body := req.AppendTo(nil)
			s := scanner{version: version}
			s.in.Src = body
			if s.structure(compiled()[req.Key()]); !s.in.Ok() || len(s.in.Src) > 0 {
				t.Fatalf("%s v%d: of %d bytes %d are left, ok=%v: %x", name, version, len(body), len(s.in.Src), s.in.Ok(), body)
			}
			if err := scan(&wire.Request{Key: req.Key(), Version: version, Body: body[:rng.IntN(len(body))]}); err == nil {
				t.Fatalf("%s v%d: a cut body is let pass", name, version)
			}
		}
	})
}

// What counts more than there is, at any place, takes no longer than what it is made of.
func TestCountsBeyondTheBodyCostNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	most := binary.AppendUvarint(nil, math.MaxUint32)
	eachFlexible(func(req kmsg.Request) {
		name, version := kmsg.NameForKey(req.Key()), req.GetVersion()
		for range 3 {
			fill(reflect.ValueOf(req).Elem(), rng)
			req.SetVersion(version)
			body := req.AppendTo(nil)
			for at := 0; at < len(body); at += 1 + len(body)/100 {
				claim := append(append(append([]byte(nil), body[:at]...), most...), body[at:]...)
				began := time.Now()
				decodeAny(req.Key(), version, claim)
				if took := time.Since(began); took > 5*time.Second { // it would be minutes
					t.Fatalf("%s v%d: a count at %d of %d bytes keeps us busy for %s", name, version, at, len(body), took)
				}
			}
		}
	})
}
