package k8s_test

import (
	"cmp"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"

	"cline-meet/signal/packaging/systemtest"
)

// fleet is what a cluster is to the DaemonSet: machines with addresses of their own, an API, Redis, and
// a proxy that sends users to pods that are ready. The test itself is outside, where clients are.
type fleet struct {
	t        *testing.T
	pod      core.PodTemplateSpec
	env      map[string]string
	gateway  string // gateway is the address of what is no node.
	files    string // files is the directory with the service account's token and ca.crt, and all of /etc.
	cert     tls.Certificate
	binary   string
	machines []*machine
	next     atomic.Uint32
}

// machine is one Kubernetes node with at most one pod.
type machine struct {
	*fleet
	name, ip string
	serving  atomic.Bool // serving says whether the Service has the pod as endpoint.
	cmd      *exec.Cmd
	ended    chan struct{} // ended is closed when the process is gone, with exit set.
	exit     error
	log      string // log is the file with what the process says.
}

// newFleet starts count machines with pods of the DaemonSet among the objects.
func newFleet(t *testing.T, objects []object, count int) *fleet {
	t.Helper()
	systemtest.NeedRoot(t, "ip", "nsenter", "unshare", "setpriv", "redis-server", "chromium")
	f := &fleet{t: t, pod: one[*apps.DaemonSet](t, objects, "signaling").Spec.Template, binary: systemtest.Executable(t)}
	f.env = environment(t, objects, f.pod.Spec.Containers[0])
	if *drain > 0 {
		f.env["DRAIN_TIMEOUT"] = strconv.Itoa(*drain)
	}
	// Others than private addresses, which relays refuse; they are known on this machine alone.
	prefix := fmt.Sprintf("11.%d.%d.", 100+os.Getpid()>>8%100, os.Getpid()&255)
	f.gateway = prefix + "1"
	bridge := fmt.Sprintf("sgb%d", os.Getpid()%100000)
	systemtest.IP(t, "link add "+bridge+" type bridge", "link delete "+bridge)
	systemtest.IP(t, "address add "+f.gateway+"/24 dev "+bridge, "")
	systemtest.IP(t, "link set "+bridge+" up", "")
	f.startRedis()
	for i := range count {
		f.addMachine(bridge, fmt.Sprintf("%s-%d", bridge, i), prefix+strconv.Itoa(11+i))
	}
	f.startAPI()
	f.writeFiles()
	for _, m := range f.machines {
		m.start()
	}
	return f
}

func (f *fleet) addMachine(bridge, name, ip string) {
	f.t.Helper()
	outer := "v" + name
	systemtest.IP(f.t, "netns add "+name, "netns delete "+name)
	systemtest.IP(f.t, "link add "+outer+" type veth peer name eth0 netns "+name, "link delete "+outer)
	systemtest.IP(f.t, "link set "+outer+" master "+bridge+" up", "")
	systemtest.IP(f.t, "-n "+name+" address add "+ip+"/24 dev eth0", "")
	systemtest.IP(f.t, "-n "+name+" link set eth0 up", "")
	systemtest.IP(f.t, "-n "+name+" link set lo up", "")
	systemtest.IP(f.t, "-n "+name+" route add default via "+f.gateway, "")
	f.machines = append(f.machines, &machine{fleet: f, name: name, ip: ip})
}

func (f *fleet) startRedis() {
	f.t.Helper()
	redis := exec.Command("redis-server", "--bind", f.gateway, "--port", "6379", "--requirepass", f.env["REDIS_PASSWORD"], "--save", "", "--dir", f.t.TempDir())
	if err := redis.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = redis.Process.Kill(); _ = redis.Wait() })
}

// startAPI serves the Node objects as the API server does, to whoever has the token.
func (f *fleet) startAPI() {
	f.t.Helper()
	listener, err := net.Listen("tcp", f.gateway+":0")
	if err != nil {
		f.t.Fatal(err)
	}
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, m := range f.machines {
			if r.URL.Path == "/api/v1/nodes/"+m.name && r.Header.Get("Authorization") == "Bearer north" {
				_ = json.NewEncoder(w).Encode(core.Node{Status: core.NodeStatus{Addresses: []core.NodeAddress{{Type: core.NodeExternalIP, Address: m.ip}}}})
				return
			}
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	_ = api.Listener.Close()
	api.Listener = listener
	f.cert = systemtest.Certificate(f.t, f.gateway, "*.turn.example.org")
	api.TLS = &tls.Config{Certificates: []tls.Certificate{f.cert}}
	api.StartTLS()
	f.t.Cleanup(api.Close)
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	f.env["KUBERNETES_SERVICE_HOST"], f.env["KUBERNETES_SERVICE_PORT"] = f.gateway, port
}

// writeFiles writes what pods have beside the image's executable: the service account, names, and the certificate in every Secret
// that is mounted, for those alone who may read it.
func (f *fleet) writeFiles() {
	f.t.Helper()
	f.files = f.t.TempDir()
	cert, key := systemtest.WriteCertificate(f.t, f.t.TempDir(), f.cert)
	hosts := "127.0.0.1 localhost\n" + f.gateway + " redis\n"
	for name, text := range map[string]string{"token": "north", "ca.crt": read(f.t, cert), "etc/hosts": hosts} {
		f.write(name, text, 0o644, 0)
	}
	for _, m := range f.pod.Spec.Containers[0].VolumeMounts {
		for _, v := range f.pod.Spec.Volumes {
			if v.Name != m.Name {
				continue
			}
			for name, file := range map[string]string{core.TLSCertKey: cert, core.TLSPrivateKeyKey: key} {
				f.write(filepath.Join(m.MountPath, name), read(f.t, file), os.FileMode(*v.Secret.DefaultMode), int(*f.pod.Spec.SecurityContext.FSGroup))
			}
		}
	}
}

func (f *fleet) write(name, text string, mode os.FileMode, group int) {
	f.t.Helper()
	file := filepath.Join(f.files, name)
	err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), mode), os.Chown(file, 0, group))
	if err != nil {
		f.t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// container is how the container runtime starts the pod: the image's entry point with the manifest's
// arguments, in the machine's network, with files of its own, without rights.
const container = `
mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount
cp "$0"/token "$0"/ca.crt /run/secrets/kubernetes.io/serviceaccount && mount --bind "$0"/etc /etc
exec setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --bounding-set=-all -- "$@"
`

// start runs the pod and waits until it is an endpoint of the Service.
func (m *machine) start() {
	m.t.Helper()
	c := m.pod.Spec.Containers[0]
	args := append([]string{"--net=/run/netns/" + m.name, "unshare", "--mount", "sh", "-euc", container, m.files, m.binary}, c.Args...)
	m.cmd, m.ended = exec.Command("nsenter", args...), make(chan struct{})
	m.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	fields := map[string]string{"spec.nodeName": m.name, "status.hostIP": m.ip}
	for name, value := range m.env {
		m.cmd.Env = append(m.cmd.Env, name+"="+value)
	}
	for _, e := range c.Env {
		if e.ValueFrom != nil {
			m.cmd.Env = append(m.cmd.Env, e.Name+"="+fields[e.ValueFrom.FieldRef.FieldPath])
		}
	}
	m.log = filepath.Join(m.t.TempDir(), "log")
	file, err := os.Create(m.log)
	if err != nil {
		m.t.Fatal(err)
	}
	m.cmd.Stderr = file
	err = m.cmd.Start()
	_ = file.Close()
	if err != nil {
		m.t.Fatal(err)
	}
	cmd, ended := m.cmd, m.ended
	go func() { m.exit = cmd.Wait(); close(ended) }()
	m.t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	systemtest.Until(m.t, m.name+" is ready", func() error { return m.probe(c.ReadinessProbe) })
	m.serving.Store(true)
}

// probe does what the kubelet does and returns what is wrong.
func (m *machine) probe(p *core.Probe) error {
	client := http.Client{Timeout: systemtest.Patience, Transport: directly()}
	res, err := client.Get(m.scheme() + "://" + m.ip + ":" + m.env["SERVER_PORT"] + p.HTTPGet.Path)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}

// directly is a way to a pod that believes any certificate, as the kubelet and load balancers do.
func directly() *http.Transport {
	return &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
}

// scheme is what the kubelet is told that pods speak.
func (f *fleet) scheme() string {
	return strings.ToLower(cmp.Or(string(f.pod.Spec.Containers[0].ReadinessProbe.HTTPGet.Scheme), "http"))
}

// stop ends the pod as the kubelet does: no endpoint any more, the preStop, SIGTERM, and the grace
// period, after which it would be killed. It returns how long the process took.
func (m *machine) stop() time.Duration {
	m.t.Helper()
	preStop := time.Duration(m.pod.Spec.Containers[0].Lifecycle.PreStop.Sleep.Seconds) * time.Second
	grace := time.Duration(*m.pod.Spec.TerminationGracePeriodSeconds)*time.Second - preStop
	m.serving.Store(false)
	<-time.After(preStop)
	began := time.Now()
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		m.t.Fatal(err)
	}
	select {
	case <-m.ended:
		if m.exit != nil {
			m.t.Errorf("%s ended with %v", m.name, m.exit)
		}
	case <-time.After(grace):
		m.t.Fatalf("%s would be killed, it is not done after %v:\n%s", m.name, grace, m.said())
	}
	return time.Since(began)
}

// said returns what the pod has logged so far.
func (m *machine) said() string {
	m.t.Helper()
	return read(m.t, m.log)
}

// service is the ingress and the Service together: any endpoint, one after the other.
func (f *fleet) service() (link string) {
	f.t.Helper()
	listener, err := net.Listen("tcp", f.gateway+":0")
	if err != nil {
		f.t.Fatal(err)
	}
	if f.scheme() == "https" {
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{f.cert}})
	}
	proxy := &httputil.ReverseProxy{Transport: directly(), Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: f.scheme(), Host: f.endpoint()})
		r.SetXForwarded()
		r.Out.Host = r.In.Host
	}}
	server := &http.Server{Handler: proxy, ErrorLog: log.New(io.Discard, "", 0)} // Browsers open more than they use.
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	f.t.Cleanup(func() { _ = server.Close(); <-done })
	return f.scheme() + "://" + listener.Addr().String() + "/"
}

func (f *fleet) endpoint() string {
	for range f.machines {
		m := f.machines[int(f.next.Add(1))%len(f.machines)]
		if m.serving.Load() {
			return m.ip + ":" + m.env["SERVER_PORT"]
		}
	}
	return "127.0.0.1:1"
}
