//go:build kube

package e2e

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/stitchfix/flotilla-os/clients/kube"
	"github.com/stitchfix/flotilla-os/clients/kube/kubetest"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// mainCluster is the cluster that every server of a kubeSite is configured with.
const mainCluster = "one"

// kubeSite is an installation whose runs are Jobs in a namespace of their own. Its servers have only the rights of
// deploy/cluster, in that namespace.
type kubeSite struct {
	*installation
	admin     *kube.Cluster
	namespace string
	// api relays the servers' requests to the API server.
	api   *relay
	seen  *witness
	token string
	// folder is the value of eks_kubeconfig_basepath.
	folder string
}

// newKubeSite returns a site without a server. env holds further NAME=value pairs for all of its servers.
func newKubeSite(t testing.TB, env ...string) *kubeSite {
	t.Helper()
	return newKubeSiteOn(t, statetest.NewURL(t), env...)
}

// newKubeSiteOn returns a site on the given database.
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
	s.definition = object{"image": kubetest.Image(), "memory": 32, "cpu": 250}
	s.addKubeconfig(mainCluster, s.api.url(), s.token)
	return s
}

// apiServerURL returns the address of the cluster of $KUBECONFIG.
func apiServerURL(t testing.TB) *url.URL {
	t.Helper()
	address, err := url.Parse(clusterOfKubeconfig(t).Server)
	require.NoError(t, err)
	return address
}

// clusterOfKubeconfig returns the cluster of the current context of $KUBECONFIG.
func clusterOfKubeconfig(t testing.TB) *clientcmdapi.Cluster {
	t.Helper()
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(kubetest.Kubeconfig(t))}
	loaded, err := rules.Load()
	require.NoError(t, err)
	return loaded.Clusters[loaded.Contexts[loaded.CurrentContext].Cluster]
}

// addKubeconfig writes the kubeconfig of a cluster for all servers. Whatever its name, the cluster is that of the tests,
// at the given address and with the given token.
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
	// The file is renamed into place so that no server reads half of it.
	file := filepath.Join(s.t.TempDir(), name)
	require.NoError(s.t, clientcmd.WriteToFile(*cfg, file))
	require.NoError(s.t, os.Rename(file, filepath.Join(s.folder, name)))
}

// accountToken creates an account with the rights of deploy/cluster in the site's namespace and returns a token of it.
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

// deployedRules returns the rules of the Role in deploy/cluster.
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

// deleteJob deletes a Job as kubectl does.
func (s *kubeSite) deleteJob(name string) {
	s.t.Helper()
	err := s.admin.Client.BatchV1().Jobs(s.namespace).Delete(s.t.Context(), name,
		metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})
	require.NoError(s.t, err)
}

// awaitNoPods waits until every pod of the namespace has ended.
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
	}, patience, poll, "pods have not ended: %v", &alive)
}

// awaitRecorded waits until the Job of a run is marked as recorded and has the configured time to live: the server needs
// the Job and its pod no longer.
func (s *kubeSite) awaitRecorded(job string) {
	s.t.Helper()
	s.await("the Job to be marked as recorded", func() bool {
		found, err := s.admin.Client.BatchV1().Jobs(s.namespace).Get(s.t.Context(), job, metav1.GetOptions{})
		require.NoError(s.t, err)
		marked := found.Annotations["flotilla.stitchfix.com/recorded"] != ""
		if marked {
			require.EqualValues(s.t, time.Hour.Seconds(), *found.Spec.TTLSecondsAfterFinished)
		}
		return marked
	})
}

// pods returns the pods of all attempts of a run.
func (s *kubeSite) pods(id string) []corev1.Pod {
	s.t.Helper()
	list, err := s.admin.Client.CoreV1().Pods(s.namespace).List(s.t.Context(), metav1.ListOptions{LabelSelector: "flotilla-run-id=" + id})
	require.NoError(s.t, err)
	return list.Items
}

// awaitNoPodsOf waits until the cluster has no pod of a run.
func (s *kubeSite) awaitNoPodsOf(id string) {
	s.t.Helper()
	s.await("the run's pods to be gone", func() bool { return len(s.pods(id)) == 0 })
}

// kubeServer is a site with one server.
type kubeServer struct {
	*kubeSite
	*server
}

// startKube returns a site with a running server.
func startKube(t *testing.T, env ...string) *kubeServer {
	t.Helper()
	s := newKubeSite(t, env...)
	return &kubeServer{s, s.serve("one")}
}

// on returns k for a subtest.
func (k *kubeServer) on(t *testing.T) *kubeServer {
	in, site, s := *k.installation, *k.kubeSite, *k.server
	in.t = t
	site.installation, s.in = &in, &in
	return &kubeServer{&site, &s}
}

// execute submits a run of a command as a definition of its own, with 512 MB and 256 millicores unless the request has
// others.
func (k *kubeServer) execute(command string, request ...object) string {
	k.t.Helper()
	return k.run(k.define(command, object{"memory": 512, "cpu": 256}), request...)
}

// awaitUnschedulable waits until a run is PENDING because no node takes its pod.
func (k *kubeServer) awaitUnschedulable(id string) {
	k.t.Helper()
	k.awaitRun(id, "unschedulable", func(r shownRun) bool { return strings.Contains(r.StatusReason, "Unschedulable") })
}

// witness watches a namespace, by its own connection, and keeps every Job and every pod that ever existed in it.
type witness struct {
	mu   sync.Mutex
	jobs map[string]map[types.UID]bool // by the Job's name
	pods map[string]map[types.UID]bool // by the name of their Job
	// ended holds the time at which a pod was first seen to have ended, by the name of its Job.
	ended map[string]time.Time
}

func newWitness(t testing.TB, namespace string) *witness {
	t.Helper()
	w := &witness{
		jobs: map[string]map[types.UID]bool{}, pods: map[string]map[types.UID]bool{}, ended: map[string]time.Time{},
	}
	factory := informers.NewSharedInformerFactoryWithOptions(kubetest.Whole(t), 0, informers.WithNamespace(namespace))
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(seen any) { w.note(seen) },
		UpdateFunc: func(_, seen any) { w.note(seen) },
	}
	for _, informer := range []cache.SharedIndexInformer{
		factory.Batch().V1().Jobs().Informer(), factory.Core().V1().Pods().Informer(),
	} {
		_, err := informer.AddEventHandler(handler)
		require.NoError(t, err)
	}
	stop := make(chan struct{})
	factory.Start(stop)
	t.Cleanup(func() {
		close(stop)
		factory.Shutdown()
	})
	factory.WaitForCacheSync(t.Context().Done())
	return w
}

func (w *witness) note(seen any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch seen := seen.(type) {
	case *batchv1.Job:
		add(w.jobs, seen.Name, seen.UID)
	case *corev1.Pod:
		job := seen.Labels[batchv1.JobNameLabel]
		add(w.pods, job, seen.UID)
		over := seen.Status.Phase == corev1.PodSucceeded || seen.Status.Phase == corev1.PodFailed
		if _, known := w.ended[job]; over && !known {
			w.ended[job] = time.Now()
		}
	}
}

func add(to map[string]map[types.UID]bool, name string, uid types.UID) {
	if to[name] == nil {
		to[name] = map[types.UID]bool{}
	}
	to[name][uid] = true
}

// created returns the number of Jobs that were ever created.
func (w *witness) created() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	count := 0
	for _, uids := range w.jobs {
		count += len(uids)
	}
	return count
}

// over returns the number of Jobs with a pod that has ended.
func (w *witness) over() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ended)
}

// endedAt returns the time at which the Job's pod was seen to have ended, or the zero time if it has not ended.
func (w *witness) endedAt(job string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended[job]
}

// onceEach asserts that exactly these Jobs were created, each of them once and with one pod.
func (w *witness) onceEach(t testing.TB, jobs ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, job := range jobs {
		assert.Len(t, w.jobs[job], 1, "Jobs called %s", job)
		assert.Len(t, w.pods[job], 1, "pods of Job %s", job)
	}
	assert.Len(t, w.jobs, len(jobs), "Jobs")
}

// withPods returns the number of Jobs that ever had a pod.
func (w *witness) withPods() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.pods)
}
