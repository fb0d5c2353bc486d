package node

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"byrnie.dev/cluster/internal/layout"
)

// command is a program of a node and how it is started.
type command struct {
	// name is also the name of the log, and the part of our own binary to run if program is empty.
	name    string
	program string
	args    []string
}

// processes starts the node's programs, and buries every process of the node: its own and those that lost their parent.
type processes struct {
	cluster layout.Cluster
	index   int
	mutex   sync.Mutex
	waiting map[int]chan syscall.WaitStatus
}

func newProcesses(c layout.Cluster, index int) *processes {
	return &processes{cluster: c, index: index, waiting: map[int]chan syscall.WaitStatus{}}
}

// reap never returns.
func (p *processes) reap() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	for range ended {
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			p.mutex.Lock()
			if waiting, ok := p.waiting[pid]; ok {
				waiting <- status
				delete(p.waiting, pid)
			}
			p.mutex.Unlock()
		}
	}
}

// run starts a program and waits until it has ended.
func (p *processes) run(c command) error {
	ended, err := p.start(c)
	if err != nil {
		return err
	}
	if status := <-ended; status != 0 {
		return fmt.Errorf("%s ended: %s", c.name, describe(status))
	}
	return nil
}

// keep starts a program, and starts it again whenever it ends; `up` takes its end for a failure.
func (p *processes) keep(c command) {
	for ; ; time.Sleep(time.Second) {
		ended, err := p.start(c)
		if err != nil {
			p.note(c.name, err.Error())
			continue
		}
		p.note(c.name, describe(<-ended))
	}
}

func (p *processes) start(c command) (<-chan syscall.WaitStatus, error) {
	program := c.program
	if program == "" {
		program = ownBinary
	} else if found, err := exec.LookPath(program); err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.name, err)
	} else {
		program = found
	}
	log, err := os.OpenFile(p.cluster.Log(p.index, c.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	// held until the process is known, or reap could bury it unseen
	p.mutex.Lock()
	defer p.mutex.Unlock()
	process, err := os.StartProcess(program, append([]string{c.name}, c.args...), &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{null, log, log}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.name, err)
	}
	ended := make(chan syscall.WaitStatus, 1)
	p.waiting[process.Pid] = ended
	return ended, process.Release()
}

// note writes to the node's own log, and where `up` and `status` look for what ended.
func (p *processes) note(name, how string) {
	fmt.Fprintf(os.Stderr, "%s %s ended: %s\n", time.Now().Format(time.TimeOnly), name, how)
	file, err := os.OpenFile(p.cluster.Ended(p.index), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer file.Close()
	fmt.Fprintf(file, "%s %s\n", filepath.Base(name), how)
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal " + status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}
