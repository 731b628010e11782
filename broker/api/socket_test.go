package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// raw sends bytes over a real socket and returns all that comes back until the
// server closes, or a moment passes.
func raw(t *testing.T, addr, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(conn, text) }()
	b, _ := io.ReadAll(conn)
	return string(b)
}

func TestWhatTwoServersCouldReadDifferentlyIsRefused(t *testing.T) {
	f := &fakeBroker{answer: anAnswer()}
	addr := serving(t, ServerConfig{Handler: NewPublic(publicConfig(f, &logBook{}))})
	const head = "POST /v1/exchange HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer abc\r\nContent-Type: application/json\r\n"
	const smuggled = "DELETE /v1/session HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer stolen\r\n\r\n"
	for name, text := range map[string]string{
		"two lengths":                   head + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
		"a negative length":             head + "Content-Length: -2\r\n\r\n{}",
		"a length with a sign":          head + "Content-Length: +2\r\n\r\n{}",
		"a length in hexadecimal":       head + "Content-Length: 0x2\r\n\r\n{}",
		"chunked twice":                 head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"another transfer encoding":     head + "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"a chunk size that is a lie":    head + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
		"a bare line feed in a chunk":   head + "Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
		"a blank before the colon":      head + "Content-Length : 2\r\n\r\n{}",
		"a folded token":                "GET /v1/session HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer abc\r\n def\r\n\r\n",
		"no host":                       "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n",
		"two hosts":                     "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
		"a NUL in a header":             "GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\nConnection: close\r\n\r\n",
		"a bare carriage return":        "GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\rb\r\nConnection: close\r\n\r\n",
		"a line break in a target":      "GET /healthz\rX HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"HTTP/2 in clear, unannounced":  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"another protocol":              "GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
		"nonsense":                      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"headers of 64 KiB":             "GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n",
		"headers without end":           "GET /healthz HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 20000),
		"a target of 64 KiB":            "GET /" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"a length and chunks (CL.TE)":   strings.Replace(head, "Connection: close\r\n", "", 1) + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"chunks and a length (TE.CL)":   strings.Replace(head, "Connection: close\r\n", "", 1) + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n" + smuggled,
		"a length that hides a request": head + "Content-Length: 2\r\n\r\n{}" + smuggled,
	} {
		t.Run(name, func(t *testing.T) {
			before := len(f.calls())
			got := raw(t, addr, text)
			if strings.Count(got, "HTTP/1.1 ") > 1 {
				t.Errorf("two answers: %q", got)
			}
			for _, c := range f.calls()[before:] {
				if c.method != "Exchange" || c.token != "abc" || name != "a length that hides a request" {
					t.Errorf("the broker heard %+v", c)
				}
			}
			if strings.Contains(got, " 200 OK") && name != "a length that hides a request" {
				t.Errorf("answered with %q", got)
			}
		})
	}
}

func TestATokenOfSixteenKiBFitsAndHeadersBeyondAreCut(t *testing.T) {
	f := &fakeBroker{answer: anAnswer()}
	addr := serving(t, ServerConfig{Handler: NewPublic(publicConfig(f, &logBook{}))})
	request := func(n int) string {
		return "GET /v1/session HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer " + strings.Repeat("a", n) + "\r\n\r\n"
	}
	for n, want := range map[int]string{maxToken: " 200 ", maxToken + 1: " 401 ", 25 << 10: " 431 "} {
		if got, _, _ := strings.Cut(raw(t, addr, request(n)), "\r\n"); !strings.Contains(got+" ", want) {
			t.Errorf("a token of %d bytes: %q, want %s", n, got, want)
		}
	}
}

func TestAHugeBodyIsCutAndTheConnectionClosed(t *testing.T) {
	f := &fakeBroker{answer: anAnswer()}
	addr := serving(t, ServerConfig{Handler: NewPublic(publicConfig(f, &logBook{}))})
	const head = "POST /v1/exchange HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer abc\r\nContent-Type: application/json\r\n"
	chunk := "10000\r\n" + strings.Repeat(" ", 1<<16) + "\r\n"
	for name, text := range map[string]string{
		"announced": head + "Content-Length: 1048576\r\n\r\n" + strings.Repeat(" ", 1<<20),
		"in chunks": head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat(chunk, 16) + "0\r\n\r\n",
	} {
		began := time.Now()
		got := raw(t, addr, text)
		if !strings.Contains(got, " 400 ") || !strings.Contains(got, "larger than 64 KiB") || time.Since(began) > 4*time.Second || len(f.calls()) != 0 {
			t.Errorf("%s: after %v: %q", name, time.Since(began), got)
		}
	}
}

// Five hundred clients that never finish a header must not keep others from
// being served, and must be gone when their time is up.
func TestSlowClientsAreGoneInTimeAndOthersAreServedMeanwhile(t *testing.T) {
	t.Parallel()
	addr := serving(t, ServerConfig{Handler: NewPublic(publicConfig(&fakeBroker{}, &logBook{}))})
	const slow = 500
	began := time.Now()
	var all sync.WaitGroup
	for i := range slow {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer conn.Close()
			_, _ = fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-%d: ", i)
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			_, err := bufio.NewReader(conn).ReadByte()
			if took := time.Since(began); err != io.EOF && !isReset(err) || took > readHeaderTimeout+5*time.Second {
				t.Errorf("client %d: %v after %v", i, err, took)
			}
		})
	}
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	for range 20 {
		res, err := client.Get("http://" + addr + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if res.StatusCode != 200 {
			t.Errorf("others get %d", res.StatusCode)
		}
	}
	all.Wait()
}

func isReset(err error) bool { return err != nil && strings.Contains(err.Error(), "reset") }
