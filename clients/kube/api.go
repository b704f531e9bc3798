package kube

import (
	"net/http"

	batchclient "k8s.io/client-go/kubernetes/typed/batch/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// API are the parts of the Kubernetes API that Flotilla talks to. The whole of it (package kubernetes) would add a sixth
// to the program, and more than a tenth to what an idle server holds in memory.
type API struct {
	batch *batchclient.BatchV1Client
	core  *coreclient.CoreV1Client
}

// newAPI makes both parts; cfg holds the limit of requests that they share.
func newAPI(cfg *rest.Config, client *http.Client) (API, error) {
	batch, err := batchclient.NewForConfigAndClient(cfg, client)
	if err != nil {
		return API{}, err
	}
	core, err := coreclient.NewForConfigAndClient(cfg, client)
	return API{batch, core}, err
}

// BatchV1 has Jobs.
func (a API) BatchV1() batchclient.BatchV1Interface { return a.batch }

// CoreV1 has pods and events.
func (a API) CoreV1() coreclient.CoreV1Interface { return a.core }
