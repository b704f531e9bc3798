package config

import (
	"fmt"
	"net/url"
	"strings"
)

// ValueError reports a key with a value that is not allowed. Its text is one line and never shows a secret.
type ValueError struct {
	Key     string
	Held    string // the value, described or quoted; "nothing" if it is missing
	Allowed string // the allowed values
	Source  string // the environment variable that the value came from; empty if it came from the file
}

func (e *ValueError) Error() string {
	key := e.Key
	if e.Source != "" {
		key += " (" + e.Source + ")"
	}
	return fmt.Sprintf("configuration: %s holds %s; it may hold %s", key, e.Held, e.Allowed)
}

// Warning is a key of the configuration that has no effect.
type Warning struct {
	Key     string
	Message string
}

func (w Warning) String() string { return w.Key + ": " + w.Message }

func (f field) error(raw any) *ValueError {
	held := quote(raw)
	if f.tag.Get("mask") == "url" {
		held = "a text that is not an address"
		text, _ := scalarText(raw)
		if masked := MaskDatabaseURL(text); masked != "" {
			held = quote(masked)
		}
	}
	return &ValueError{Key: f.key, Held: held, Allowed: f.allowed()}
}

// quote returns a value on one line, shortened if it is long.
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

// MaskDatabaseURL returns the address with every password in it replaced by xxxxx, fit for logs. It returns "" for a
// text whose parts cannot be distinguished, because any of it might be the password.
func MaskDatabaseURL(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Opaque != "" || u.Fragment != "" || u.Scheme == "" || (u.Host == "" && !isPostgres(u)) {
		return ""
	}
	// A password with an unescaped / or ? is parsed into the path or query, together with the @ that should have ended
	// it.
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

// validDatabaseURL reports whether text can be the address of a Postgres. It accepts "", see RequireDatabase.
func validDatabaseURL(text string) bool {
	u, err := url.Parse(text)
	return text == "" || err == nil && isPostgres(u) && MaskDatabaseURL(text) != ""
}
