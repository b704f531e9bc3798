package config

import (
	"encoding/hex"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Validate checks every value, also of a Config that was built in code. The error is a *ValueError about the first
// key that holds what it may not.
func (c *Config) Validate() error {
	for _, f := range fields(c) {
		if !f.valid() {
			return f.error(f.shown())
		}
	}
	checks := []func() error{c.validateTokens, c.validateAddresses, c.validateNames, c.validateARA, c.validateRetry}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// RequireDatabase is the check of commands that cannot start a database of their own.
func (c *Config) RequireDatabase() error {
	if c.DatabaseURL != "" {
		return nil
	}
	f := field{key: "database_url", tag: `mask:"url"`}
	return &ValueError{Key: f.key, Held: "nothing", Allowed: f.allowed()}
}

func (f field) valid() bool {
	switch f.value.Type() {
	case durationType:
		d := time.Duration(f.value.Int())
		return d >= f.durationTag("min") && d <= f.durationTag("max")
	case stringsType:
		return f.validList()
	}
	switch f.value.Kind() {
	case reflect.Int, reflect.Int64:
		return float64(f.value.Int()) >= f.numberTag("min") && float64(f.value.Int()) <= f.numberTag("max")
	case reflect.Float64:
		return f.value.Float() >= f.numberTag("min") && f.value.Float() <= f.numberTag("max")
	case reflect.String:
		return f.validText()
	}
	return true
}

func (f field) validText() bool {
	text := f.value.String()
	switch {
	case f.tag.Get("required") != "" && text == "":
		return false
	case f.tag.Get("mask") == "url":
		return validDatabaseURL(text)
	case f.tag.Get("oneof") != "":
		return slices.Contains(strings.Split(f.tag.Get("oneof"), ","), text)
	}
	return true
}

func (f field) validList() bool {
	one := f.tag.Get("oneof")
	if one == "" {
		return true
	}
	list, ok := f.value.Interface().([]string)
	return ok && !slices.ContainsFunc(list, func(item string) bool {
		return !slices.Contains(strings.Split(one, ","), item)
	})
}

// shown is the value as an error quotes it.
func (f field) shown() any {
	if list, ok := f.value.Interface().([]string); ok {
		return strings.Join(list, ",")
	}
	return f.value.Interface()
}

func (f field) durationTag(name string) time.Duration {
	d, err := parseDuration(f.tag.Get(name))
	if err != nil {
		panic(fmt.Sprintf("config: the tag %s of %s is no duration", name, f.key))
	}
	return d
}

func (f field) numberTag(name string) float64 {
	x, ok := parseFloat(f.tag.Get(name))
	if !ok {
		panic(fmt.Sprintf("config: the tag %s of %s is no number", name, f.key))
	}
	return x
}

func (c *Config) validateTokens() error {
	seen := map[string]bool{}
	for i, token := range c.HTTP.APITokens {
		sum, err := hex.DecodeString(token.SHA256)
		const sha256Size = 32
		held := ""
		switch {
		case token.Name == "" || seen[token.Name]:
			held = "a name that is empty or was used before"
		case token.Access != AccessRead && token.Access != AccessWrite:
			held = "an access that is neither read nor write"
		case err != nil || len(sum) != sha256Size:
			held = "a SHA-256 that is not 64 hex digits"
		}
		if held != "" {
			held = fmt.Sprintf("an entry (number %d) with %s", i+1, held)
			return &ValueError{Key: "http_server_api_tokens", Held: held, Allowed: tokensAllowed}
		}
		seen[token.Name] = true
	}
	return nil
}

func (c *Config) validateAddresses() error {
	if !validListenAddress(c.HTTP.ListenAddress) {
		return &ValueError{Key: "http_server_listen_address", Held: quote(c.HTTP.ListenAddress),
			Allowed: "an address and a port such as :5000 or 127.0.0.1:5000"}
	}
	if c.Metrics.Client == MetricsDogStatsD && c.Metrics.DogStatsDAddress == "" {
		return &ValueError{Key: "metrics_dogstatsd_address", Held: "nothing",
			Allowed: "the agent's address such as 127.0.0.1:8125 or unix:///var/run/datadog/dsd.socket"}
	}
	return nil
}

func validListenAddress(address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

func (c *Config) validateARA() error {
	a := c.ARA
	for _, bound := range []struct {
		key      string
		max, min int64
		minKey   string
	}{
		{"ara.max_cpu", a.MaxCPU, a.MinCPU, "ara.min_cpu"},
		{"ara.max_cpu_gpu", a.MaxCPUGPU, a.MinCPU, "ara.min_cpu"},
		{"ara.max_memory", a.MaxMemory, a.MinMemory, "ara.min_memory"},
		{"ara.max_memory_gpu", a.MaxMemoryGPU, a.MinMemory, "ara.min_memory"},
	} {
		if bound.max < bound.min {
			return &ValueError{Key: bound.key, Held: quote(bound.max),
				Allowed: fmt.Sprintf("a whole number of at least %s, which holds %d", bound.minKey, bound.min)}
		}
	}
	return nil
}

func (c *Config) validateRetry() error {
	if c.Retry.MaxDelay < c.Retry.BaseDelay {
		return &ValueError{Key: "retry_max_delay", Held: quote(c.Retry.MaxDelay),
			Allowed: fmt.Sprintf("a duration of at least retry_base_delay, which holds %s", c.Retry.BaseDelay)}
	}
	return nil
}
