package daypass

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/daypass-dev/daypass/clients/go/daypasstest"
)

func TestACertificateOfOnesOwnIsTrustedOnlyWhenNamed(t *testing.T) {
	b := orders()
	var connections atomic.Int32
	srv := httptest.NewUnstartedServer(b)
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	srv.StartTLS()
	defer srv.Close()
	path := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(path, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	set := map[string]string{"DAYPASS_URL": srv.URL, "DAYPASS_ID_TOKEN": daypasstest.Token("ci")}
	c, err := FromEnv(env(set))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exchange(t.Context(), want); CodeOf(err) != NoAnswer || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown certificate: %v", err)
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections: a certificate does not get better by retrying", n)
	}
	set["DAYPASS_CACERT"] = path
	c, err = FromEnv(env(set))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exchange(t.Context(), want); err != nil {
		t.Errorf("a certificate that was named: %v", err)
	}
	for _, bad := range []string{filepath.Join(t.TempDir(), "absent"), "tls_test.go"} {
		set["DAYPASS_CACERT"] = bad
		if _, err := FromEnv(env(set)); err == nil {
			t.Errorf("%s was taken for certificates", bad)
		}
	}
}
