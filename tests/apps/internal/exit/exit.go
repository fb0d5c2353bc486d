// Package exit carries a process's exit code as an error, so that a command can end with one without
// calling os.Exit below main.
package exit

import (
	"errors"
	"fmt"
)

// Codes after curl's, so that scripts read them without a table.
const (
	Usage       = 2
	NotReached  = 7
	HTTPRefused = 22
)

// Error ends the process with Code; Err, if any, is printed first.
type Error struct {
	Code int
	Err  error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// With returns an error that ends the process with code.
func With(code int, err error) error { return &Error{Code: code, Err: err} }

// CodeOf is the exit code that err asks for: 0 for nil, 1 where it does not say.
func CodeOf(err error) int {
	var asked *Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &asked):
		return asked.Code
	default:
		return 1
	}
}
