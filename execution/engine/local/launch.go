package local

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stitchfix/flotilla-os/fault"
)

// ShimCommand is the word on the command line that makes this program a shim.
const ShimCommand = "shim"

// ownProgram is this very program, also after its file was replaced by a newer one.
const ownProgram = "/proc/self/exe"

// shims starts them, and keeps one waiting for its folder: the program is large, and its start would be most of the time
// between submitting a run and its running.
type shims struct {
	program string
	mu      sync.Mutex
	spare   *shimProcess
}

// prepare starts the spare shim, where there is none.
func (s *shims) prepare() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare != nil {
		return nil
	}
	var err error
	s.spare, err = spawn(s.program)
	return err
}

// launch has a shim execute the attempt of a prepared folder, and returns when the command has started.
func (s *shims) launch(folder Folder) (*attempt, error) {
	s.mu.Lock()
	process := s.spare
	s.spare = nil
	s.mu.Unlock()
	if process == nil {
		return launch(s.program, folder)
	}
	return process.execute(folder)
}

// dismiss ends the spare shim.
func (s *shims) dismiss() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare != nil {
		s.spare.dismiss()
		s.spare = nil
	}
}

// launch starts a shim on a prepared folder, and returns when the command has started.
func launch(program string, folder Folder) (*attempt, error) {
	process, err := spawn(program)
	if err != nil {
		return nil, err
	}
	return process.execute(folder)
}

// shimProcess is a shim that waits for its folder. It ends when we do.
type shimProcess struct {
	child *exec.Cmd
	pidfd int
	// orders is its standard input, answers its standard output.
	orders, answers *os.File
}

// spawn starts a shim in a session of its own, so that it outlives us once it has its folder.
func spawn(program string) (*shimProcess, error) {
	input, orders, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting the shim: %w", err)
	}
	answers, output, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the shim: %w", err), input.Close(), orders.Close())
	}
	p := &shimProcess{pidfd: -1, orders: orders, answers: answers}
	p.child = &exec.Cmd{
		Path: program, Args: []string{"flotilla-os", ShimCommand, folderFromInput}, Env: shimEnvironment(), Dir: "/",
		Stdin: input, Stdout: output, SysProcAttr: &sysProcAttr{Setsid: true, PidFD: &p.pidfd},
	}
	err = p.child.Start()
	_, _ = input.Close(), output.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the shim: %w", err), orders.Close(), answers.Close())
	}
	return p, nil
}

// execute hands the folder over. errNoStart: the shim executed nothing, and the folder says why, if anything does.
func (p *shimProcess) execute(folder Folder) (*attempt, error) {
	defer func() { _ = p.answers.Close() }()
	// In one piece: a path is shorter than what a pipe takes at once.
	_, err := p.orders.WriteString(string(folder))
	_ = p.orders.Close()
	if line, _ := bufio.NewReader(p.answers).ReadString('\n'); err == nil && line == readyLine {
		return &attempt{folder: folder, child: p.child, pidfd: pollable(p.pidfd)}, nil
	}
	return nil, errors.Join(errNoStart, err, p.reap())
}

func (p *shimProcess) dismiss() {
	_, _ = p.orders.Close(), p.answers.Close()
	_ = p.reap()
}

func (p *shimProcess) reap() error {
	if p.pidfd >= 0 {
		_ = unix.Close(p.pidfd)
	}
	return p.child.Wait()
}

// shimEnvironment holds nothing but what commands and container clients get from it: the server's own has secrets.
func shimEnvironment() []string {
	var entries []string
	for _, name := range slices.Concat(passedOn, clientVariables, []string{fault.EnvVar}) {
		if value, ok := os.LookupEnv(name); ok {
			entries = append(entries, name+"="+value)
		}
	}
	return entries
}
