// Package auth admits or denies requests, by API tokens and by the guard of dev mode. The router calls it before every
// route.
package auth

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

// Config configures a Gate.
type Config struct {
	// Tokens are the API tokens; without any the API is open.
	Tokens []config.APIToken
	// DevMode guards an open API on the loopback interface against web pages; it has no effect if there are Tokens.
	DevMode bool
	// ListenAddress is the configured address of the server; the Host header may name it.
	ListenAddress string
}

// Gate admits or denies requests.
type Gate struct {
	tokens  []token
	guarded bool
	host    string
}

// token is one API token, of which only the hash is known.
type token struct {
	name   string
	sum    []byte
	writes bool
}

// NewGate returns the Gate for a configuration, or an error if a token's hash is not a SHA-256 in hex.
func NewGate(c Config) (*Gate, error) {
	g := &Gate{guarded: c.DevMode && len(c.Tokens) == 0, host: hostOf(c.ListenAddress)}
	for _, t := range c.Tokens {
		sum, err := hex.DecodeString(t.SHA256)
		if err != nil || len(sum) != sha256.Size {
			return nil, fmt.Errorf("auth: the API token %q is not a SHA-256 in hex", t.Name)
		}
		g.tokens = append(g.tokens, token{name: t.Name, sum: sum, writes: t.Access == config.AccessWrite})
	}
	return g, nil
}

// Guarded reports whether the guard of dev mode is in force.
func (g *Gate) Guarded() bool { return g.guarded }

// Denied is the refusal of a request.
type Denied struct {
	// Status is the status code of the answer.
	Status int
	// Message is a sentence for the caller.
	Message string
}

func (d Denied) Error() string { return d.Message }

// Admit returns the maker of a request, or a Denied. Public routes need no token.
func (g *Gate) Admit(r *http.Request, public bool) (services.Actor, error) {
	actor := services.Actor{Email: emailOf(r)}
	if len(g.tokens) > 0 && !public {
		name, err := g.authenticate(r)
		if err != nil {
			return services.Actor{}, err
		}
		actor.Token = name
	}
	if g.guarded {
		if err := g.guard(r); err != nil {
			return services.Actor{}, err
		}
	}
	return actor, nil
}

func isWrite(method string) bool {
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}

// authenticate returns the name of a request's token. It compares with every
// token, so that the time it takes reveals nothing about them.
func (g *Gate) authenticate(r *http.Request) (string, error) {
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	secret = strings.TrimSpace(secret)
	if !strings.EqualFold(scheme, "Bearer") || secret == "" {
		return "", Denied{http.StatusUnauthorized, "this API needs a token, sent as the header Authorization: Bearer <token>"}
	}
	sum := sha256.Sum256([]byte(secret))
	var found *token
	for i := range g.tokens {
		if subtle.ConstantTimeCompare(sum[:], g.tokens[i].sum) == 1 {
			found = &g.tokens[i]
		}
	}
	switch {
	case found == nil:
		return "", Denied{http.StatusUnauthorized, "this token is not known"}
	case isWrite(r.Method) && !found.writes:
		return "", Denied{http.StatusForbidden, "this token may only read"}
	}
	return found.name, nil
}

// guard denies what a web page could have its visitor's browser send to a server on the loopback interface: a host name
// that was made to point here, and writes in a form that browsers send without a preflight request.
func (g *Gate) guard(r *http.Request) error {
	host := hostOf(r.Host)
	if !isLoopback(host) && (host == "" || host != g.host) {
		return Denied{http.StatusForbidden, "in dev mode the Host header must name the address that this server listens on"}
	}
	if isWrite(r.Method) && r.ContentLength != 0 {
		kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || (kind != "application/json" && !strings.HasSuffix(kind, "+json")) {
			return Denied{http.StatusBadRequest, "in dev mode a write needs the header Content-Type: application/json"}
		}
	}
	return nil
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

// IsLoopbackOrigin reports whether an Origin header names this machine.
func IsLoopbackOrigin(origin string) bool {
	u, err := url.Parse(origin)
	return err == nil && isLoopback(strings.ToLower(u.Hostname()))
}

// maxEmail bounds, in bytes, what is kept of an email header.
const maxEmail = 100

// emailOf returns the email of the caller according to a proxy in front: the
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
	email := r.Header[slices.Min(names)][0]
	return strings.ToValidUTF8(email[:min(len(email), maxEmail)], "")
}
