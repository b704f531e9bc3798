package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// scalarText is the text of a single value, however YAML typed it; false for lists and mappings.
func scalarText(raw any) (string, bool) {
	switch v := raw.(type) {
	case string:
		return strings.TrimSpace(v), true
	case bool:
		return strconv.FormatBool(v), true
	case int:
		return strconv.Itoa(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case uint64:
		return strconv.FormatUint(v, 10), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	case time.Time: // YAML reads 2026-01-02 as a time; no key holds one, so it is shown as it may have been written.
		return v.Format(time.RFC3339), true
	}
	return "", false
}

func parseBool(text string) (value, ok bool) {
	switch strings.ToLower(text) {
	case "true", "yes", "on", "1":
		return true, true
	case "false", "no", "off", "0":
		return false, true
	}
	return false, false
}

// parseInt reads a whole number; 5.0, as some tools write 5, is one.
func parseInt(text string) (int64, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, true
	}
	const exact = 1 << 53 // beyond, a float64 does not tell neighbouring whole numbers apart
	x, ok := parseFloat(text)
	if !ok || x != math.Trunc(x) || math.Abs(x) > exact {
		return 0, false
	}
	return int64(x), true
}

func parseFloat(text string) (float64, bool) {
	x, err := strconv.ParseFloat(text, 64)
	return x, err == nil && !math.IsNaN(x) && !math.IsInf(x, 0)
}

var errNotADuration = errors.New("not a duration")

// parseDuration reads a Go duration, or a plain number of seconds.
func parseDuration(raw any) (time.Duration, error) {
	text, ok := scalarText(raw)
	if !ok {
		return 0, errNotADuration
	}
	if _, isBool := raw.(bool); isBool {
		return 0, errNotADuration
	}
	if d, err := time.ParseDuration(text); err == nil {
		return d, nil
	}
	seconds, ok := parseFloat(text)
	if !ok || math.Abs(seconds) > math.MaxInt64/float64(time.Second)/2 {
		return 0, errNotADuration
	}
	return time.Duration(math.Round(seconds * float64(time.Second))), nil
}

// parseList reads a YAML list of single values, or one text with commas; blanks between commas do not count.
func parseList(raw any) ([]string, bool) {
	var parts []string
	switch v := raw.(type) {
	case []any:
		for _, item := range v {
			text, ok := scalarText(item)
			if !ok {
				return nil, false
			}
			parts = append(parts, text)
		}
	default:
		text, ok := scalarText(raw)
		if !ok {
			return nil, false
		}
		parts = strings.Split(text, ",")
	}
	var list []string
	for _, part := range parts {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list, true
}

// parseTokens reads the entries name:read|write:<sha256>, as a list or separated by commas, or mappings with the
// members name, access and sha256. No message shows an entry: whoever wrote the token itself there by mistake must
// not find it in a log.
func parseTokens(key string, raw any) ([]APIToken, error) {
	items, ok := raw.([]any)
	if !ok {
		list, ok := parseList(raw)
		if !ok {
			return nil, &ValueError{Key: key, Held: "something that is not a list", Allowed: tokensAllowed}
		}
		for _, entry := range list {
			items = append(items, entry)
		}
	}
	var tokens []APIToken
	for i, item := range items {
		token, ok := parseToken(item)
		if !ok {
			held := fmt.Sprintf("an entry (number %d) of another form", i+1)
			return nil, &ValueError{Key: key, Held: held, Allowed: tokensAllowed}
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}

const tokensAllowed = "a list of entries name:read:<sha256 of the token, 64 hex digits> or name:write:<sha256>, " +
	"or of mappings with name, access and sha256, each name once"

func parseToken(item any) (APIToken, bool) {
	if m, isMap := item.(map[string]any); isMap {
		name, ok1 := scalarText(m["name"])
		access, ok2 := scalarText(m["access"])
		sum, ok3 := scalarText(m["sha256"])
		return APIToken{Name: name, Access: access, SHA256: strings.ToLower(sum)}, ok1 && ok2 && ok3 && len(m) == 3
	}
	text, ok := item.(string)
	parts := strings.Split(text, ":")
	if !ok || len(parts) != 3 {
		return APIToken{}, false
	}
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return APIToken{Name: parts[0], Access: parts[1], SHA256: strings.ToLower(parts[2])}, true
}
