package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"byrnie.dev/e2e/harness"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// privateKeys: after all the tests before this, private keys are in the Secrets that are made for them and
// nowhere else: not in another object or an old revision of one, nor in a log or a metric. Nor is there a
// pod's token in a log or a metric.
func (s *suite) privateKeys(t *testing.T) {
	space := s.Space(t, "keys", harness.Meshed)
	server, client := harness.App{Name: "server"}, harness.Client("client")
	space.Deploy(server, client)
	space.Ready(server)
	answers(t, space.In(space.Ready(client)[0]), "http://server:8080/", 200, "", "--header", secretHeader)

	t.Run("objects", func(t *testing.T) {
		var holders []string
		objects := 0
		err := s.EveryObject(t.Context(), func(resource schema.GroupVersionResource, object unstructured.Unstructured) {
			objects++
			text, err := object.MarshalJSON()
			if err != nil {
				t.Error(err)
			}
			if holdsKey(text) {
				holders = append(holders, resource.Resource+"/"+object.GetNamespace()+"/"+object.GetName())
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d objects, keys in %v", objects, holders)
		onlyInTheirSecrets(t, holders)
	})
	t.Run("etcd", func(t *testing.T) {
		if s.Settings.ClusterName == "" {
			t.Skip("the etcd of somebody else's cluster")
		}
		file := filepath.Join(t.TempDir(), "etcd.db")
		command := exec.CommandContext(t.Context(), s.Settings.ClusterBin, "snapshot", "--name", s.Settings.ClusterName, file)
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("snapshot: %v\n%s", err, output)
		}
		var holders []string
		revisions := 0
		everyRevision(t, file, func(key string, value []byte) {
			revisions++
			if holdsKey(value) {
				holders = append(holders, strings.TrimPrefix(key, "/registry/"))
			}
		})
		slices.Sort(holders)
		holders = slices.Compact(holders)
		t.Logf("%d revisions of objects, keys in %v", revisions, holders)
		onlyInTheirSecrets(t, holders)
	})
	t.Run("logs and metrics", func(t *testing.T) {
		texts, size := 0, 0
		look := func(what string, text []byte, err error) {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			texts, size = texts+1, size+len(text)
			if holdsKey(text) {
				t.Errorf("a private key in %s", what)
			}
			if bytes.Contains(text, []byte("eyJhbGciOi")) {
				t.Errorf("a token in %s", what)
			}
		}
		pods, err := s.Kube.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, pod := range pods.Items {
			if pod.Namespace != space.Name && pod.Namespace != harness.SystemNamespace {
				continue
			}
			at := pod.Namespace + "/" + pod.Name
			for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
				for _, previous := range []bool{false, true}[:min(status.RestartCount+1, 2)] {
					text, err := s.Kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: status.Name, Previous: previous}).DoRaw(t.Context())
					look(fmt.Sprintf("the log of %s of %s", status.Name, at), text, err)
				}
			}
			port := 14191 // of the sidecar
			if pod.Namespace == harness.SystemNamespace {
				port = 14291
			}
			text, err := s.metricsOf(t.Context(), pod, port)
			look("the metrics of "+at, text, err)
		}
		t.Logf("%d logs and metrics, %d KiB", texts, size>>10)
	})
}

// onlyInTheirSecrets wants keys found where they must be, which shows that the search finds them, and
// nowhere else.
func onlyInTheirSecrets(t *testing.T, holders []string) {
	t.Helper()
	const theirs = "secrets/" + harness.SystemNamespace + "/"
	var roots, serving int
	for _, holder := range holders {
		switch {
		case strings.HasPrefix(holder, theirs+"byrnie-root-"):
			roots++
		case holder == theirs+"byrnie-injector-tls":
			serving++
		default:
			t.Errorf("a private key in %s", holder)
		}
	}
	if roots == 0 || serving != 1 {
		t.Errorf("found the keys of %d roots and %d webhook servers: the search is blind", roots, serving)
	}
}

// everyRevision reads what etcd's file holds: the objects, and what they were before.
func everyRevision(t *testing.T, file string, visit func(key string, value []byte)) {
	t.Helper()
	database, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer database.Close()
	err = database.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("key")).ForEach(func(_, record []byte) error {
			var key, value []byte
			for len(record) > 0 {
				number, kind, length := protowire.ConsumeTag(record)
				if length < 0 {
					return protowire.ParseError(length)
				}
				record = record[length:]
				if kind == protowire.BytesType {
					field, _ := protowire.ConsumeBytes(record)
					switch number { // of etcd's mvccpb.KeyValue
					case 1:
						key = field
					case 5:
						value = field
					}
				}
				if length = protowire.ConsumeFieldValue(number, kind, record); length < 0 {
					return protowire.ParseError(length)
				}
				record = record[length:]
			}
			visit(string(key), value)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// keyMarks are what private keys look like: PEM, and the DER of those for elliptic curves, Ed25519, RSA.
var keyMarks = [][]byte{
	[]byte("PRIVATE KEY-----"),
	unhex("0201010420"),         // ECPrivateKey of 256 bits: version 1, 32 bytes
	unhex("0201010430"),         // of 384 bits
	unhex("06032b657004220420"), // Ed25519 in PKCS #8
	unhex("0201000282010100"),   // RSAPrivateKey of 2048 bits: version 0, modulus
}

var encoded = regexp.MustCompile(`[A-Za-z0-9+/]{40,}={0,2}`)

// holdsKey looks for private keys in data, and in what is base64 or gzip in it, as in Secrets and Helm's
// records.
func holdsKey(data []byte) bool { return holdsKeyWithin(data, 4) }

func holdsKeyWithin(data []byte, depth int) bool {
	for _, mark := range keyMarks {
		if bytes.Contains(data, mark) {
			return true
		}
	}
	if depth == 0 {
		return false
	}
	if packed, err := gzip.NewReader(bytes.NewReader(data)); err == nil {
		if unpacked, err := io.ReadAll(packed); err == nil && holdsKeyWithin(unpacked, depth-1) {
			return true
		}
	}
	for _, run := range encoded.FindAll(data, -1) {
		if decoded, err := base64.StdEncoding.DecodeString(string(run)); err == nil && holdsKeyWithin(decoded, depth-1) {
			return true
		}
	}
	return false
}

func unhex(text string) []byte {
	mark, err := hex.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return mark
}
