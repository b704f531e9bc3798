package config

import (
	"fmt"
	"net/url"
	"strings"
)

// ValueError says in one line which key holds what it may not hold. It never shows a secret.
type ValueError struct {
	Key     string
	Held    string // what the key holds, in words or quoted; "nothing" where it is missing
	Allowed string // what it may hold
	Source  string // where the value came from, or empty
}

func (e *ValueError) Error() string {
	key := e.Key
	if e.Source != "" {
		key += " (" + e.Source + ")"
	}
	return fmt.Sprintf("configuration: %s holds %s; it may hold %s", key, e.Held, e.Allowed)
}

// Warning is something odd in the configuration that does not stop the start.
type Warning struct {
	Key     string
	Message string
}

func (w Warning) String() string { return w.Key + ": " + w.Message }

func (f field) error(raw any) *ValueError {
	held := quote(raw)
	switch f.tag.Get("mask") {
	case "url":
		held = "something that is not one text"
		if text, ok := scalarText(raw); ok {
			held = heldURL(text)
		}
	case "all":
		held = "something else"
	}
	return &ValueError{Key: f.key, Held: held, Allowed: f.allowed()}
}

// quote shows a value on one line, shortened where it is long.
func quote(raw any) string {
	const longest = 80
	switch raw.(type) {
	case nil:
		return "nothing"
	case []any:
		return "a list"
	case map[string]any:
		return "a mapping"
	}
	text := []rune(fmt.Sprint(raw))
	if len(text) > longest {
		return fmt.Sprintf("%q…", string(text[:longest]))
	}
	return fmt.Sprintf("%q", string(text))
}

func heldURL(text string) string {
	if text == "" {
		return "nothing"
	}
	if masked := MaskDatabaseURL(text); masked != "" {
		return quote(masked)
	}
	return "a text that is no address"
}

// MaskDatabaseURL is the address with every password in it replaced by xxxxx, fit for logs. Of a text whose parts
// cannot be told apart it shows nothing, because any of it might be the password.
func MaskDatabaseURL(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Opaque != "" || u.Fragment != "" || u.Scheme == "" || (u.Host == "" && !isPostgres(u)) {
		return ""
	}
	// A password with an unescaped / or ? ends up behind the host, together with the @ that should have ended it.
	if strings.Contains(u.Path+u.RawQuery, "@") {
		return ""
	}
	query := u.Query()
	for name := range query {
		if strings.Contains(strings.ToLower(name), "password") {
			query.Set(name, "xxxxx")
		}
	}
	u.RawQuery = query.Encode()
	return u.Redacted()
}

func isPostgres(u *url.URL) bool { return u.Scheme == "postgres" || u.Scheme == "postgresql" }

// validDatabaseURL is whether text can be an address of Postgres; an empty one is left to RequireDatabase.
func validDatabaseURL(text string) bool {
	u, err := url.Parse(text)
	return text == "" || err == nil && isPostgres(u) && MaskDatabaseURL(text) != ""
}
