// Package rig starts what a run of third parties against the proxy needs: proxies by file, with certificates,
// and other programs beside them. Everything listens on loopback and ends with the run.
package rig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const startLimit = 20 * time.Second

// Rig is a directory and the processes of a run.
type Rig struct {
	Directory string
	children  []*exec.Cmd
}

// New makes a rig; its processes end with this one, however that ends.
func New() (*Rig, error) {
	// a child's death signal belongs to the thread that started it
	runtime.LockOSThread()
	directory, err := os.MkdirTemp("", "byrnie-conformance-")
	if err != nil {
		return nil, err
	}
	return &Rig{Directory: directory}, nil
}

// Close ends the processes and removes the directory.
func (r *Rig) Close() {
	for _, child := range r.children {
		_ = child.Process.Kill()
		_ = child.Wait()
	}
	_ = os.RemoveAll(r.Directory)
}

// Start runs a program in the directory. A nil output goes to a file that is called like the program.
func (r *Rig) Start(output io.Writer, name string, arguments ...string) error {
	child := exec.Command(name, arguments...)
	child.Dir = r.Directory
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	words, err := os.OpenFile(filepath.Join(r.Directory, filepath.Base(name)+".err"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer words.Close()
	child.Stdout, child.Stderr = output, words
	if output == nil {
		child.Stdout = words
	}
	if err := child.Start(); err != nil {
		return err
	}
	r.children = append(r.children, child)
	return nil
}

// Proxy runs a proxy by a configuration to which identity and admin are added, and waits until it is ready.
// It returns the address of its metrics.
func (r *Rig) Proxy(binary, account, configuration string, log io.Writer) (string, error) {
	admin := Free()
	head := fmt.Sprintf("trustDomain: %[1]s\nidentity: {chain: %[2]s.crt, key: %[2]s.key, roots: {%[1]s: roots.pem}}\nadmin: %[3]s\n",
		TrustDomain, account, admin)
	path := filepath.Join(r.Directory, account+".yaml")
	if err := os.WriteFile(path, []byte(head+configuration), 0o600); err != nil {
		return "", err
	}
	if err := r.Start(log, binary, "run", "--config", path); err != nil {
		return "", err
	}
	ready := func() error {
		answer, err := http.Get("http://" + admin + "/ready")
		if err != nil {
			return err
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return errors.New(answer.Status)
		}
		return nil
	}
	return admin, r.await("the proxy", ready)
}

// Await waits until something takes connections.
func (r *Rig) Await(what, address string) error {
	return r.await(what, func() error {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			_ = connection.Close()
		}
		return err
	})
}

func (r *Rig) await(what string, ready func() error) error {
	until := time.Now().Add(startLimit)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("%s does not start: %w\n%s", what, err, r.words())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (r *Rig) words() []byte {
	var all bytes.Buffer
	paths, _ := filepath.Glob(filepath.Join(r.Directory, "*.err"))
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		all.Write(text)
	}
	return all.Bytes()
}

// Free is a loopback address that nobody listened on a moment ago.
func Free() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
