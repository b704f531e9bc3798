package config

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// field is one key of Config: its value and its tags.
type field struct {
	key   string
	tag   reflect.StructTag
	value reflect.Value
}

// fields returns the keys of c in the order of the struct, groups included.
func fields(c *Config) []field {
	var found []field
	var walk func(reflect.Value)
	walk = func(v reflect.Value) {
		for i := range v.NumField() {
			f, fv := v.Type().Field(i), v.Field(i)
			if key := f.Tag.Get("key"); key != "" {
				found = append(found, field{key: key, tag: f.Tag, value: fv})
			} else if fv.Kind() == reflect.Struct {
				walk(fv)
			}
		}
	}
	walk(reflect.ValueOf(c).Elem())
	return found
}

// set stores raw, a value of the configuration file or of the environment, in the field. The error is a *ValueError.
func (f field) set(raw any) error {
	text, ok := scalarText(raw)
	held := raw
	switch v := f.value.Addr().Interface().(type) {
	case *string:
		*v = text
		ok = ok && (text != "" || f.tag.Get("required") == "") && f.offers(text)
		if f.tag.Get("mask") == "url" {
			ok = ok && validDatabaseURL(text)
		}
	case *bool:
		ok = true
		switch strings.ToLower(text) {
		case "true", "yes", "on", "1":
			*v = true
		case "false", "no", "off", "0":
			*v = false
		default:
			ok = false
		}
	case *int:
		var n int64
		n, ok = parseInt(text)
		*v, ok = int(n), ok && f.within(float64(n))
	case *int64:
		*v, ok = parseInt(text)
		ok = ok && f.within(float64(*v))
	case *float64:
		*v, ok = parseFloat(text)
		ok = ok && f.within(*v)
	case *time.Duration:
		*v, ok = parseDuration(text)
		ok = ok && f.within(v.Seconds())
	case *[]string:
		if pairs, isMap := parseMap(raw); isMap && f.tag.Get("pairs") != "" {
			*v = nil
			for name, value := range pairs {
				*v = append(*v, name+":"+value)
			}
			slices.Sort(*v)
			return nil
		}
		*v, ok = parseList(raw)
		held = strings.Join(*v, ",")
		ok = ok && !slices.ContainsFunc(*v, func(word string) bool { return !f.offers(word) })
	case *map[string]int64:
		pairs, isMap := parseMap(raw)
		*v, ok = map[string]int64{}, isMap
		for name, value := range pairs {
			n, isInt := parseInt(value)
			(*v)[strings.ToLower(name)] = n
			ok = ok && isInt && f.within(float64(n))
		}
	case *[]APIToken:
		var err error
		*v, err = parseTokens(f.key, raw)
		return err
	default:
		panic(fmt.Sprintf("config: %s is of a type that cannot be configured", f.key))
	}
	if !ok {
		return f.error(held)
	}
	return nil
}

// offers reports whether the key may hold word.
func (f field) offers(word string) bool {
	words := f.tag.Get("oneof")
	return words == "" || slices.Contains(strings.Split(words, ","), word)
}

// within reports whether x, in seconds for a duration, is between the bounds of the key.
func (f field) within(x float64) bool { return x >= f.bound("min") && x <= f.bound("max") }

func (f field) bound(name string) float64 {
	text := f.tag.Get(name)
	x, ok := parseFloat(text)
	if f.isDuration() {
		var d time.Duration
		d, ok = parseDuration(text)
		x = d.Seconds()
	}
	if !ok {
		panic(fmt.Sprintf("config: the tag %s of %s is not a number", name, f.key))
	}
	return x
}

func (f field) isDuration() bool { return f.value.Type() == reflect.TypeFor[time.Duration]() }

// allowed describes what the key may hold.
func (f field) allowed() string {
	words := strings.ReplaceAll(f.tag.Get("oneof"), ",", ", ")
	bounds := " from " + f.tag.Get("min") + " to " + f.tag.Get("max")
	switch {
	case f.tag.Get("mask") == "url":
		return "a Postgres address such as postgres://user:password@host:5432/flotilla?sslmode=require"
	case f.isDuration():
		return "a duration such as 5s or 10m, or a number of seconds" + bounds
	case f.value.Kind() == reflect.Slice && words != "":
		return "a list (YAML, or separated by commas) of any of " + words
	case f.value.Kind() == reflect.Slice:
		return "a list, in YAML or separated by commas"
	case f.value.Kind() == reflect.Map:
		return "a mapping (YAML, JSON, or a=1,b=2) of names to whole numbers" + bounds
	case words != "":
		return "one of " + words
	case f.value.Kind() == reflect.Bool:
		return "true or false"
	case f.value.Kind() == reflect.Float64:
		return "a number" + bounds
	case f.value.Kind() != reflect.String:
		return "a whole number" + bounds
	case f.tag.Get("required") != "":
		return "a text that is not empty"
	}
	return "a text"
}

// scalarText returns the text of a single value, whatever type YAML gave it. It reports false for lists and mappings.
func scalarText(raw any) (string, bool) {
	switch v := raw.(type) {
	case string:
		return strings.TrimSpace(v), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	case time.Time: // YAML reads 2026-01-02 as a time; it is shown as it may have been written
		return v.Format(time.RFC3339), true
	case bool, int, int64, uint64, json.Number:
		return fmt.Sprint(v), true
	}
	return "", false
}

// parseInt reads a whole number; 5.0, as some tools write 5, is one.
func parseInt(text string) (int64, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, true
	}
	const exact = 1 << 53 // beyond, a float64 does not distinguish neighbouring whole numbers
	x, ok := parseFloat(text)
	return int64(x), ok && x == math.Trunc(x) && math.Abs(x) <= exact
}

func parseFloat(text string) (float64, bool) {
	x, err := strconv.ParseFloat(text, 64)
	return x, err == nil && !math.IsNaN(x) && !math.IsInf(x, 0)
}

// parseDuration reads a Go duration, or a plain number of seconds.
func parseDuration(text string) (time.Duration, bool) {
	if d, err := time.ParseDuration(text); err == nil {
		return d, true
	}
	seconds, ok := parseFloat(text)
	if !ok || math.Abs(seconds) > math.MaxInt64/float64(time.Second)/2 {
		return 0, false
	}
	return time.Duration(math.Round(seconds * float64(time.Second))), true
}

// parseList reads a YAML list of single values, or a text with commas. It leaves out empty items.
func parseList(raw any) ([]string, bool) {
	var parts []string
	if items, isList := raw.([]any); isList {
		for _, item := range items {
			text, ok := scalarText(item)
			if !ok {
				return nil, false
			}
			parts = append(parts, text)
		}
	} else {
		text, ok := scalarText(raw)
		if !ok {
			return nil, false
		}
		parts = strings.Split(text, ",")
	}
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return slices.DeleteFunc(parts, func(part string) bool { return part == "" }), true
}

// parseMap reads a YAML mapping to single values, a JSON object, or a text such as a=1,b=2.
func parseMap(raw any) (map[string]string, bool) {
	values, isMap := raw.(map[string]any)
	if text, isText := raw.(string); isText && strings.HasPrefix(strings.TrimSpace(text), "{") {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		isMap = decoder.Decode(&values) == nil && !decoder.More()
	}
	if isMap {
		pairs := make(map[string]string, len(values))
		for name, value := range values {
			text, ok := scalarText(value)
			if !ok {
				return nil, false
			}
			pairs[name] = text
		}
		return pairs, true
	}
	list, ok := parseList(raw)
	pairs := make(map[string]string, len(list))
	for _, item := range list {
		name, value, hasValue := strings.Cut(item, "=")
		pairs[strings.TrimSpace(name)] = strings.TrimSpace(value)
		ok = ok && hasValue && name != ""
	}
	return pairs, ok && len(pairs) == len(list)
}
