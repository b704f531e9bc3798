package flotilla

import (
	"context"
	"errors"
	"net/http"

	_ "embed" // openapi.yaml

	"sigs.k8s.io/yaml"

	"github.com/stitchfix/flotilla-os/state"
)

type readinessFunc func(ctx context.Context) (map[string]string, error)

type healthAnswer struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

// health says that the process answers; it looks at nothing else.
func health(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, healthAnswer{"healthy", "Service is up and running"})
}

type readyAnswer struct {
	Status  string            `json:"status"`
	Details map[string]string `json:"details,omitempty"`
}

// ready says whether requests can be served: the database is reachable and
// migrated.
func (e *endpoints) ready(w http.ResponseWriter, r *http.Request) error {
	details, err := e.isReady(r.Context())
	if unavailable := (state.Unavailable{}); err != nil && !errors.As(err, &unavailable) {
		return state.Unavailable{Err: err}
	}
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return writeJSON(w, readyAnswer{"ready", details})
}

//go:embed openapi.yaml
var openAPIYAML []byte

// openAPIDocument is the description of the API as JSON.
func openAPIDocument() ([]byte, error) { return yaml.YAMLToJSON(openAPIYAML) }

func (e *endpoints) openAPI(w http.ResponseWriter, _ *http.Request) error {
	return writeBody(w, http.StatusOK, typeJSON, e.openapi)
}
