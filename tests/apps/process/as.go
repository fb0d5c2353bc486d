package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"byrnie.dev/apps/internal/exit"
)

// As runs one more command of this binary as another user, for which it must be root, and ends as it does.
func As(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return exit.With(exit.Usage, errors.New("usage: as UID COMMAND [ARGUMENT ...]"))
	}
	uid, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	command := exec.CommandContext(ctx, "/proc/self/exe", args[1:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	err = command.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return exit.With(ended.ExitCode(), nil)
	}
	return err
}
