package flotilla

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/services"
)

// apiToken is one configured token; the token itself is not known.
type apiToken struct {
	name   string
	sum    [sha256.Size]byte
	writes bool
}

func parseTokens(configured []config.APIToken) ([]apiToken, error) {
	var tokens []apiToken
	for _, c := range configured {
		token := apiToken{name: c.Name, writes: c.Access == config.AccessWrite}
		sum, err := hex.DecodeString(c.SHA256)
		if err != nil || len(sum) != sha256.Size {
			return nil, fmt.Errorf("flotilla: the API token %q is not a SHA-256 in hex", c.Name)
		}
		copy(token.sum[:], sum)
		tokens = append(tokens, token)
	}
	return tokens, nil
}

// admit decides whether a request may be served, and notes who makes it.
func (e *endpoints) admit(r *http.Request, public bool) (*http.Request, error) {
	actor := services.Actor{Email: emailOf(r)}
	if len(e.tokens) > 0 && !public {
		token, err := e.authorise(r)
		if err != nil {
			return nil, err
		}
		actor.Token = token.name
	}
	if e.guarded {
		if err := guardLoopback(r, e.http.ListenAddress); err != nil {
			return nil, err
		}
	}
	return r.WithContext(services.WithActor(r.Context(), actor)), nil
}

func isWrite(method string) bool {
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}

// authorise finds the token of a request. It compares with every token, so
// that the time it takes says nothing about them.
func (e *endpoints) authorise(r *http.Request) (apiToken, error) {
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || strings.TrimSpace(secret) == "" {
		return apiToken{}, httpError{http.StatusUnauthorized, "this API needs a token, sent as the header Authorization: Bearer <token>"}
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(secret)))
	var found *apiToken
	for i := range e.tokens {
		if subtle.ConstantTimeCompare(sum[:], e.tokens[i].sum[:]) == 1 {
			found = &e.tokens[i]
		}
	}
	switch {
	case found == nil:
		return apiToken{}, httpError{http.StatusUnauthorized, "this token is not known here"}
	case isWrite(r.Method) && !found.writes:
		return apiToken{}, httpError{http.StatusForbidden, "this token may only read"}
	}
	return *found, nil
}

// guardLoopback refuses what a web page could have its visitor's browser send
// to a server on the loopback interface: a host name that was made to point
// here, and writes in a form that browsers send without asking first.
func guardLoopback(r *http.Request, listen string) error {
	if !isLocalHost(r.Host, listen) {
		return httpError{http.StatusForbidden, "in dev mode this server answers only to the address that it listens on; the Host header names another"}
	}
	if isWrite(r.Method) && r.ContentLength != 0 {
		kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || (kind != "application/json" && !strings.HasSuffix(kind, "+json")) {
			return httpError{http.StatusBadRequest, "in dev mode a write needs the header Content-Type: application/json"}
		}
	}
	return nil
}

// isLocalHost reports whether a Host header names this machine, or the
// address that the server was told to listen on.
func isLocalHost(hostport, listen string) bool {
	host := hostOf(hostport)
	return isLoopback(host) || (host != "" && host == hostOf(listen))
}

func hostOf(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

func isLoopbackOrigin(origin string) bool {
	u, err := url.Parse(origin)
	return err == nil && isLoopback(strings.ToLower(u.Hostname()))
}

// emailOf is what a proxy in front says about who makes the request: the
// value of the first header, by name, whose name contains "-email".
func emailOf(r *http.Request) string {
	var names []string
	for name, values := range r.Header {
		if strings.Contains(strings.ToLower(name), "-email") && len(values) > 0 && values[0] != "" {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return clip(strings.ToValidUTF8(r.Header[names[0]][0], ""))
}
