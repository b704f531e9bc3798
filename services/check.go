package services

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/stitchfix/flotilla-os/state"
)

// Bounds of what clients may ask for. The columns are Postgres integers
// (2^31-1), and ARA multiplies sizes by up to 1.75 in SQL.
const (
	// maxAmount bounds memory and storage in MB, cpu in millicores, and
	// deadlines in seconds.
	maxAmount = 1_000_000_000
	maxGPU    = 1_000
	// maxName bounds in bytes every text that an index holds: an index entry
	// of Postgres takes at most about 2,700 bytes.
	maxName = 512
	// maxImage bounds the name of an image in bytes.
	maxImage = 4_096
	// maxCommand is the longest single argument that Linux passes to a
	// program, in bytes: MAX_ARG_STRLEN without its terminator.
	maxCommand = 131_071
	// maxCommandAndEnv bounds command and environment together, in bytes.
	maxCommandAndEnv = 1 << 20
	maxPort          = 65_535
	maxInt32         = 1<<31 - 1
	minInt32         = -1 << 31
)

// faults gathers what is wrong with a request, so that one answer names all
// of it.
type faults []string

func (f *faults) addf(format string, args ...any) {
	*f = append(*f, shorten(fmt.Sprintf(format, args...)))
}

// err is a MalformedInput with all faults, nil where there are none.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return state.MalformedInput{Message: strings.Join(f, "; ")}
}

// text checks a text of at most max bytes; max 0 means any length.
func (f *faults) text(field, value string, max int) {
	if strings.ContainsRune(value, 0) {
		f.addf("%s must not contain the NUL character", field)
	}
	if max > 0 && len(value) > max {
		f.addf("%s must be at most %d bytes long, not %d", field, max, len(value))
	}
}

func (f *faults) optionalText(field string, value *string, max int) {
	if value != nil {
		f.text(field, *value, max)
	}
}

// needText checks a text that must be there.
func (f *faults) needText(field, value string, max int) {
	if strings.TrimSpace(value) == "" {
		f.addf("%s must not be empty", field)
	}
	f.text(field, value, max)
}

func (f *faults) number(field string, value *int64, low, high int64) {
	if value != nil && (*value < low || *value > high) {
		f.addf("%s must be a whole number from %d to %d, not %d", field, low, high, *value)
	}
}

// sizes checks the numbers that definitions, templates and requests share.
func (f *faults) sizes(memory, cpu, gpu, storage *int64) {
	f.number("memory", memory, 0, maxAmount)
	f.number("cpu", cpu, 0, maxAmount)
	f.number("gpu", gpu, 0, maxGPU)
	f.number("ephemeral_storage", storage, 0, maxAmount)
}

// env checks an environment: each entry must be one that can be passed to a
// program.
func (f *faults) env(list state.EnvList) {
	for i, v := range list {
		field := fmt.Sprintf("env[%d]", i)
		switch {
		case v.Name == "":
			f.addf("%s.name must not be empty", field)
		case strings.Contains(v.Name, "="):
			f.addf("%s.name must not contain '='", field)
		}
		f.text(field+".name", v.Name, 0)
		f.text(field+".value", v.Value, 0)
		if size := len(v.Name) + 1 + len(v.Value); size > maxCommand {
			f.addf("%s is %d bytes long; a variable is at most %d bytes with its name", field, size, maxCommand)
		}
	}
}

// command checks a command's size, alone and together with environments.
func (f *faults) command(command *string, envs ...state.EnvList) {
	total := 0
	if command != nil {
		f.text("command", *command, maxCommand)
		total = len(*command)
	}
	for _, v := range slices.Concat(envs...) {
		total += len(v.Name) + 1 + len(v.Value) + 1
	}
	if total > maxCommandAndEnv {
		f.addf("command and env together are %d bytes long; they may have at most %d", total, maxCommandAndEnv)
	}
}

func (f *faults) ports(ports []int64) {
	for i, port := range ports {
		f.number(fmt.Sprintf("ports[%d]", i), &port, 1, maxPort)
	}
}

func (f *faults) tags(tags []string) {
	for i, tag := range tags {
		f.needText(fmt.Sprintf("tags[%d]", i), tag, maxName)
	}
}

// object checks the texts inside a value that is stored as JSON.
func (f *faults) object(field string, value any) {
	raw, err := json.Marshal(value)
	if err != nil {
		f.addf("%s cannot be written as JSON: %s", field, err)
		return
	}
	// The escape may also be a backslash that the text itself holds, so the
	// search only says where it is worth decoding.
	if !bytes.Contains(raw, []byte(`\u0000`)) {
		return
	}
	var decoded any
	if err := json.Unmarshal(raw, &decoded); err != nil || hasNUL(decoded) {
		f.addf("%s must not contain the NUL character", field)
	}
}

func hasNUL(value any) bool {
	switch v := value.(type) {
	case string:
		return strings.ContainsRune(v, 0)
	case []any:
		return slices.ContainsFunc(v, hasNUL)
	case map[string]any:
		for name, member := range v {
			if hasNUL(name) || hasNUL(member) {
				return true
			}
		}
	}
	return false
}

// maxSentence bounds in bytes what an answer repeats of a client's own text.
const maxSentence = 1_000

// shorten cuts the middle out of a long message: what is wrong stands at its
// end, where at its beginning.
func shorten(message string) string {
	if len(message) <= maxSentence {
		return message
	}
	const half = maxSentence / 2
	return strings.ToValidUTF8(message[:half], "") + "…" + strings.ToValidUTF8(message[len(message)-half:], "")
}

// unique drops repeated values and keeps the order.
func unique[T comparable](values []T) []T {
	var out []T
	for _, v := range values {
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}
