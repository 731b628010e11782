package broker

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"time"
)

// Handle is the non-secret name of a credential in its target, fixed before
// minting. It carries the deployment and the expiry, so that whoever finds it
// in the target knows whose it is and whether it is overdue.
type Handle string

// LeaseID names a lease: "dpl_" and 26 letters or digits (128 random bits).
type LeaseID string

var lower32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewLeaseID draws an id from random, which must be a cryptographic source.
func NewLeaseID(random io.Reader) (LeaseID, error) {
	s, err := randomName(random, "dpl_", 16)
	return LeaseID(s), err
}

// NewRequestID draws a request's id, "req_" and 16 letters or digits.
func NewRequestID(random io.Reader) (string, error) { return randomName(random, "req_", 10) }

func randomName(random io.Reader, prefix string, n int) (string, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(random, b); err != nil {
		return "", fmt.Errorf("draw %q: %w", prefix, err)
	}
	return prefix + lower32.EncodeToString(b), nil
}

// Six base-36 digits of expiry last until December 2038; later ones take seven,
// still within the 30 bytes that every target allows.
const handleForm = `dp_([a-z0-9]{4})_([a-z0-9]{6,7})_([a-z2-7]{12})`

var (
	handleRE     = regexp.MustCompile(`\A` + handleForm + `\z`)
	deploymentRE = regexp.MustCompile(`\A[a-z0-9]{4}\z`)
)

// CheckDeployment reports whether s can mark what is ours: four lower-case
// letters or digits.
func CheckDeployment(s string) error {
	if !deploymentRE.MatchString(s) {
		return fmt.Errorf("deployment must be four lower-case letters or digits, such as \"prod\"; it is %q", s)
	}
	return nil
}

// NewHandle names a credential dp_<deployment>_<expiry, base 36>_<random>, at
// most 29 bytes of [a-z0-9_], never derived from claims. The random part is
// taken from the lease's id, so that the name is a pure function of the order.
func NewHandle(deployment string, notAfter time.Time, lease LeaseID) (Handle, error) {
	if err := CheckDeployment(deployment); err != nil {
		return "", err
	}
	if lease == "" {
		return "", fmt.Errorf("handle: no lease id")
	}
	sum := sha256.Sum256([]byte("daypass handle\x00" + string(lease)))
	h := Handle(fmt.Sprintf("dp_%s_%s_%s", deployment, expiryText(notAfter.Unix()), lower32.EncodeToString(sum[:])[:12]))
	if !handleRE.MatchString(string(h)) {
		return "", fmt.Errorf("handle: expiry %s cannot be named", notAfter.UTC().Format(time.RFC3339))
	}
	return h, nil
}

// expiryText writes an expiry as names carry it. There is one way to write each.
func expiryText(unix int64) string { return fmt.Sprintf("%06s", strconv.FormatInt(unix, 36)) }

// ParseHandle reads a name found in a target. It is ours only if it matches in
// full and names this deployment.
func ParseHandle(deployment, name string) (Handle, time.Time, bool) {
	m := handleRE.FindStringSubmatch(name)
	if m == nil || m[1] != deployment {
		return "", time.Time{}, false
	}
	unix, err := strconv.ParseInt(m[2], 36, 64)
	if err != nil || expiryText(unix) != m[2] {
		return "", time.Time{}, false
	}
	return Handle(name), time.Unix(unix, 0), true
}
