package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// field is one key of Config: where its value lives and what its tags say.
type field struct {
	key   string
	tag   reflect.StructTag
	value reflect.Value
}

// fields lists the keys of c in the order of the struct, groups included.
func fields(c *Config) []field {
	return walk(reflect.ValueOf(c).Elem(), nil)
}

func walk(v reflect.Value, out []field) []field {
	for i := range v.NumField() {
		f, fv := v.Type().Field(i), v.Field(i)
		if key := f.Tag.Get("key"); key != "" {
			out = append(out, field{key: key, tag: f.Tag, value: fv})
		} else if fv.Kind() == reflect.Struct {
			out = walk(fv, out)
		}
	}
	return out
}

// Default returns the configuration of a program that was given neither file nor environment.
func Default() Config {
	var c Config
	for _, f := range fields(&c) {
		text, ok := f.tag.Lookup("default")
		if !ok {
			continue
		}
		if err := f.set(text); err != nil {
			panic(fmt.Sprintf("config: the default of %s is wrong: %v", f.key, err))
		}
	}
	c.Workers.CountPerInstance = defaultWorkerCounts()
	c.Tracing.ServiceName = defaultServiceName
	return c
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	stringsType  = reflect.TypeFor[[]string]()
	tokensType   = reflect.TypeFor[[]APIToken]()
)

// set gives the field the value that raw, as it came from the file or the environment, stands for.
func (f field) set(raw any) error {
	switch f.value.Type() {
	case durationType:
		d, err := parseDuration(raw)
		if err != nil {
			return f.error(raw)
		}
		f.value.SetInt(int64(d))
		return nil
	case stringsType:
		list, ok := parseList(raw)
		if !ok {
			return f.error(raw)
		}
		f.value.Set(reflect.ValueOf(list))
		return nil
	case tokensType:
		tokens, err := parseTokens(f.key, raw)
		if err != nil {
			return err
		}
		f.value.Set(reflect.ValueOf(tokens))
		return nil
	}
	if !f.setScalar(raw) {
		return f.error(raw)
	}
	return nil
}

func (f field) setScalar(raw any) bool {
	text, ok := scalarText(raw)
	if !ok {
		return false
	}
	switch f.value.Kind() {
	case reflect.String:
		f.value.SetString(text)
	case reflect.Bool:
		b, ok := parseBool(text)
		if !ok {
			return false
		}
		f.value.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, ok := parseInt(text)
		if !ok {
			return false
		}
		f.value.SetInt(n)
	case reflect.Float64:
		x, ok := parseFloat(text)
		if !ok {
			return false
		}
		f.value.SetFloat(x)
	default:
		return false
	}
	return true
}

// allowed says in words what the key may hold.
func (f field) allowed() string {
	if f.tag.Get("mask") == "url" {
		return "a Postgres address such as postgres://user:password@host:5432/flotilla?sslmode=require"
	}
	if one := f.tag.Get("oneof"); one != "" {
		words := strings.Join(strings.Split(one, ","), ", ")
		if f.value.Type() == stringsType {
			return "a list (YAML, or separated by commas) of any of " + words
		}
		return "one of " + words
	}
	switch f.value.Type() {
	case durationType:
		return "a duration such as 5s or 10m, or a number of seconds" + f.bounds()
	case stringsType:
		return "a list, in YAML or separated by commas"
	}
	switch f.value.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number" + f.bounds()
	case reflect.Int, reflect.Int64:
		return "a whole number" + f.bounds()
	}
	if f.tag.Get("required") != "" {
		return "a text that is not empty"
	}
	return "a text"
}

func (f field) bounds() string {
	return " from " + f.tag.Get("min") + " to " + f.tag.Get("max")
}
