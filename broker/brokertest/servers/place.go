//go:build unix

package servers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// FreePort finds a TCP port of 127.0.0.1 that nobody listens on. It lies below
// those that a system gives to outgoing connections, so that none of these
// takes it before the server does. Another server may: start again with another
// port where the server says so.
func FreePort() (int, error) {
	for range 100 {
		port := 12000 + rand.IntN(20000)
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue // taken
		}
		if err := l.Close(); err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		return port, nil
	}
	return 0, errors.New("find a free port: none of a hundred between 12000 and 32000 was free")
}

// PrivateDir makes a folder under the system's temporary folder that only its
// owner may enter. Where we are root and an account is named, the account owns
// it; see [Command]. The caller removes it.
func PrivateDir(pattern, account string) (string, error) {
	owner, err := accountOf(account)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", pattern)
	if err != nil {
		return "", fmt.Errorf("make a private folder: %w", err)
	}
	if owner == nil {
		return dir, nil
	}
	if err := os.Chown(dir, int(owner.uid), int(owner.gid)); err != nil {
		return "", errors.Join(fmt.Errorf("make a private folder: %w", err), os.Remove(dir))
	}
	return dir, nil
}

// account is who a server runs as; nil: as we do.
type account struct{ uid, gid uint32 }

func (a *account) credential() *syscall.Credential {
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

// accountOf looks an account up, if we are root and so can become it.
func accountOf(name string) (*account, error) {
	if name == "" || os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("account to run as: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("account to run as: %w", err)
	}
	return &account{uid: uint32(uid), gid: uint32(gid)}, nil
}
