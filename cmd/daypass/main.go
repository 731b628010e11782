// Command daypass is the job's side of Daypass: it exchanges the CI job's OIDC
// token for short-lived credentials, hands them to a command or prints them,
// and gives them back.
//
// It guarantees that no secret is on a command line, that a command run by
// exec gets neither the job's ID token nor the job session, and that
// credentials are given back when the command ends, whatever it was that ended
// it short of SIGKILL. What could not be given back expires by itself.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), process{
		Args: os.Args[1:], Env: os.Environ(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}))
}
