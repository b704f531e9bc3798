//go:build kube

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/stitchfix/flotilla-os/clients/kube"
	"github.com/stitchfix/flotilla-os/clients/kube/kubetest"
	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
)

// mainCluster is the cluster of which every server of a kubeSite knows from the start.
const mainCluster = "one"

// kubeSite is an installation whose runs are Jobs in a namespace of their own. Its servers have the rights of
// deploy/cluster there and no others.
type kubeSite struct {
	*installation
	admin     *kube.Cluster
	namespace string
	// api is the way from the servers to the API server.
	api   *relay
	seen  *witness
	token string
	// folder is eks_kubeconfig_basepath.
	folder string
}

// newKubeSite prepares a site. env holds further NAME=value pairs for every server of it.
func newKubeSite(t testing.TB, env ...string) *kubeSite {
	t.Helper()
	return newKubeSiteOn(t, pgtest.NewServer(t).CreateDatabase("kube"), env...)
}

// newKubeSiteOn does so with a database that is there already.
func newKubeSiteOn(t testing.TB, dbURL string, env ...string) *kubeSite {
	t.Helper()
	admin := kubetest.Open(t)
	s := &kubeSite{admin: admin, namespace: kubetest.Namespace(t, admin), folder: t.TempDir()}
	s.api = newRelay(t, apiServerURL(t).Host)
	s.seen = newWitness(t, s.namespace)
	s.token = s.accountToken(t)
	s.installation = newInstallation(t, dbURL, append([]string{
		"KUBECONFIG=", "EKS_KUBECONFIG_BASEPATH=" + s.folder, "EKS_JOB_NAMESPACE=" + s.namespace,
		"LOCAL_ENABLED=false", "EKS_CLUSTERS=" + mainCluster, "EKS_CLUSTER_DEFAULT=" + mainCluster,
		"CLAIM_LEASE=3s", "TERMINATE_GRACE_SECONDS=2", "ARA_MIN_MEMORY=32",
	}, env...)...)
	s.addKubeconfig(mainCluster, s.api.url(), s.token)
	return s
}

// apiServerURL is where the cluster of $KUBECONFIG is.
func apiServerURL(t testing.TB) *url.URL {
	t.Helper()
	address, err := url.Parse(clusterOfKubeconfig(t).Server)
	require.NoError(t, err)
	return address
}

func clusterOfKubeconfig(t testing.TB) *clientcmdapi.Cluster {
	t.Helper()
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(kubetest.Kubeconfig(t))}
	loaded, err := rules.Load()
	require.NoError(t, err)
	return loaded.Clusters[loaded.Contexts[loaded.CurrentContext].Cluster]
}

// addKubeconfig gives all servers the way to a cluster: to the API server of the tests, at that address and as whom the
// token says.
func (s *kubeSite) addKubeconfig(name, server, token string) {
	s.t.Helper()
	real := clusterOfKubeconfig(s.t)
	cluster := clientcmdapi.NewCluster()
	cluster.Server, cluster.TLSServerName = server, apiServerURL(s.t).Hostname()
	cluster.CertificateAuthority, cluster.CertificateAuthorityData = real.CertificateAuthority, real.CertificateAuthorityData
	cluster.InsecureSkipTLSVerify = real.InsecureSkipTLSVerify
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"] = cluster
	cfg.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token}
	cfg.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	cfg.CurrentContext = "x"
	// Renamed into place, so that no server reads half a file.
	file := filepath.Join(s.t.TempDir(), name)
	require.NoError(s.t, clientcmd.WriteToFile(*cfg, file))
	require.NoError(s.t, os.Rename(file, filepath.Join(s.folder, name)))
}

// accountToken makes an account with the rights of deploy/cluster in the site's namespace, and a token of it.
func (s *kubeSite) accountToken(t testing.TB) string {
	t.Helper()
	meta := metav1.ObjectMeta{Name: deployedAccount, Namespace: s.namespace}
	_, err := s.admin.Client.CoreV1().ServiceAccounts(s.namespace).Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	require.NoError(t, err)
	rights := kubetest.Whole(t).RbacV1()
	_, err = rights.Roles(s.namespace).Create(t.Context(),
		&rbacv1.Role{ObjectMeta: meta, Rules: deployedRules(t)}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = rights.RoleBindings(s.namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: meta.Name, Namespace: s.namespace}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	token, err := s.admin.Client.CoreV1().ServiceAccounts(s.namespace).CreateToken(t.Context(), meta.Name,
		&authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	require.NoError(t, err)
	return token.Status.Token
}

// deployedRules are the rules of the Role in deploy/cluster.
func deployedRules(t testing.TB) []rbacv1.PolicyRule {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "deploy", "cluster", "account.yaml"))
	require.NoError(t, err)
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		var role rbacv1.Role
		require.NoError(t, yaml.Unmarshal([]byte(document), &role))
		if role.Kind == "Role" {
			return role.Rules
		}
	}
	require.FailNow(t, "deploy/cluster/account.yaml has no Role")
	return nil
}

// serve starts a server and fails where it does not come up.
func (s *kubeSite) serve(name string, env ...string) *server {
	s.t.Helper()
	started := s.start(name, env...)
	require.NotEmpty(s.t, started.url, "the server does not start:\n%s", started.log)
	return started
}

// define creates a definition of the test image that runs command, and answers its id.
func (s *kubeSite) define(server *server, command string) string {
	s.t.Helper()
	return s.defineJob(server, object{"image": kubetest.Image(), "command": command, "memory": 32, "cpu": 250})
}

func (s *kubeSite) defineJob(server *server, job object) string {
	s.t.Helper()
	definition := object{"alias": fmt.Sprintf("kube-%d", time.Now().UnixNano()), "group_name": "kube"}
	maps.Copy(definition, job)
	var made struct {
		ID string `json:"definition_id"`
	}
	server.mustCall(http.MethodPost, "/task", definition, &made)
	return made.ID
}

// run asks for one run and answers its id. more is added to the request.
func (s *kubeSite) run(server *server, definition string, more object) string {
	s.t.Helper()
	body := object{"run_tags": object{"owner_id": "kube"}}
	maps.Copy(body, more)
	var made struct {
		ID string `json:"run_id"`
	}
	server.mustCall(http.MethodPut, "/task/"+definition+"/execute", body, &made)
	return made.ID
}

// awaitRow waits until one run is as wanted.
func (s *kubeSite) awaitRow(id, what string, wanted func(row) bool) row {
	s.t.Helper()
	var found row
	require.Eventually(s.t, func() bool {
		all, err := s.rows(s.t.Context())
		for _, r := range all {
			if r.id == id {
				found = r
			}
		}
		return err == nil && found.id == id && wanted(found)
	}, kubePatience, 20*time.Millisecond, "%s is not %s: %v", id, what, &found)
	return found
}

func (s *kubeSite) awaitStatus(id string, status state.Status) row {
	s.t.Helper()
	return s.awaitRow(id, string(status), func(r row) bool { return r.status == string(status) })
}

// logOf reads a run's whole log.
func (s *kubeSite) logOf(server *server, run string) string {
	s.t.Helper()
	var log string
	server.mustCall(http.MethodGet, "/"+run+"/logs?raw_text=true", nil, &log)
	return log
}

// deleteJob does what somebody does who deletes a Job by hand.
func (s *kubeSite) deleteJob(name string) {
	s.t.Helper()
	err := s.admin.Client.BatchV1().Jobs(s.namespace).Delete(s.t.Context(), name,
		metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})
	require.NoError(s.t, err)
}

// awaitNoPods waits until no pod of the namespace is alive, which means that nothing of a run goes on.
func (s *kubeSite) awaitNoPods() {
	s.t.Helper()
	var alive []string
	require.Eventually(s.t, func() bool {
		ctx, cancel := context.WithTimeout(s.t.Context(), kubetest.Timeout)
		defer cancel()
		pods, err := s.admin.Client.CoreV1().Pods(s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false
		}
		alive = nil
		for _, pod := range pods.Items {
			if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
				alive = append(alive, pod.Name)
			}
		}
		return len(alive) == 0
	}, kubePatience, 100*time.Millisecond, "pods go on: %v", &alive)
}

// await waits for whatever else.
func (s *kubeSite) await(what string, reached func() bool) {
	s.t.Helper()
	require.Eventually(s.t, reached, kubePatience, 20*time.Millisecond, "waiting for: %s", what)
}

// awaitArchived waits until a run that has ended needs its pod no longer: its Job's time to live is that of the
// configuration then.
func (s *kubeSite) awaitArchived(job string) {
	s.t.Helper()
	s.await("the Job's time to live to be lowered", func() bool {
		found, err := s.admin.Client.BatchV1().Jobs(s.namespace).Get(s.t.Context(), job, metav1.GetOptions{})
		return err == nil && *found.Spec.TTLSecondsAfterFinished <= 3600
	})
}
