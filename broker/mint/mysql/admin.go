package mysql

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	driver "github.com/go-sql-driver/mysql"

	"github.com/daypass-dev/daypass/broker"
)

// adminKeys are the parameters an admin URL may have.
var adminKeys = []string{"ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "socket"}

// admin is an admin URL, read.
type admin struct {
	config   *driver.Config
	endpoint endpoint
	schema   string // where our events and tables are
}

// parseAdmin reads an admin URL. Its errors hold nothing of it.
func parseAdmin(secret broker.Secret) (admin, error) {
	text := strings.TrimSpace(secret.Reveal())
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "mysql" && u.Scheme != "mariadb" || u.Opaque != "" || u.Fragment != "" || u.User == nil {
		return admin{}, errors.New("the admin secret is not a mysql://user:password@host:port/schema URL")
	}
	password, _ := u.User.Password()
	schema := strings.TrimPrefix(u.Path, "/")
	if u.User.Username() == "" || password == "" || checkDatabase(schema) != nil {
		return admin{}, errors.New("the admin URL must name user, password and a schema of ours, such as /daypass, for what the broker keeps in the server")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return admin{}, errors.New("the parameters of the admin URL do not parse")
	}
	for name, values := range query {
		if !slices.Contains(adminKeys, name) || len(values) != 1 {
			return admin{}, errors.New("the admin URL has parameters other than " + strings.Join(adminKeys, ", ") + ", or one of them twice")
		}
	}
	a := admin{config: driver.NewConfig(), schema: schema}
	a.config.User, a.config.Passwd = u.User.Username(), password
	if err := a.where(u, query); err != nil {
		return admin{}, err
	}
	a.config.Timeout, a.config.ReadTimeout, a.config.WriteTimeout = connectWithin, ioWithin, ioWithin
	a.config.MaxAllowedPacket = 16 << 20
	a.config.InterpolateParams = true // nothing is prepared: a job can use up what the server has for that
	a.config.Collation = "utf8mb4_general_ci"
	a.config.Logger = &driver.NopLogger{} // its lines are not scrubbed
	a.config.ConnectionAttributes = "program_name:daypass"
	return a, nil
}

// where sets the address and TLS. Over a network the server's name is verified,
// unless the URL says otherwise.
func (a *admin) where(u *url.URL, query url.Values) error {
	mode := strings.ToUpper(query.Get("ssl-mode"))
	host, port := u.Hostname(), 3306
	if socket := query.Get("socket"); socket != "" {
		if host != "" || query.Has("ssl-mode") && mode != "DISABLED" {
			return errors.New("the admin URL names a socket, and a host or TLS besides")
		}
		a.config.Net, a.config.Addr = "unix", socket
		a.endpoint = endpoint{Host: "localhost", Port: port, socket: socket}
		return nil
	}
	if text := u.Port(); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 65535 {
			return errors.New("the port of the admin URL is none")
		}
		port = n
	}
	if host == "" {
		return errors.New("the admin URL names no host")
	}
	a.config.Net, a.config.Addr = "tcp", net.JoinHostPort(host, strconv.Itoa(port))
	a.endpoint = endpoint{Host: host, Port: port, SSLMode: mode}
	if mode == "" {
		mode = "VERIFY_IDENTITY"
		if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
			mode = "DISABLED"
		}
	}
	var err error
	a.config.TLS, err = tlsFor(mode, host, query)
	return err
}

// tlsFor is the configuration of one of MySQL's ssl-modes; nil is none. There is
// no PREFERRED: whoever is in between could prefer otherwise.
func tlsFor(mode, host string, query url.Values) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	switch mode {
	case "DISABLED":
		return nil, nil
	case "REQUIRED":
		c.InsecureSkipVerify = true // as the word means with MySQL's own clients
	case "VERIFY_CA":
		c.InsecureSkipVerify = true // the chain is verified below, the name is not
		c.VerifyConnection = func(s tls.ConnectionState) error { return verifyChain(s, c.RootCAs) }
	case "VERIFY_IDENTITY":
	default:
		return nil, errors.New("the ssl-mode of the admin URL is not DISABLED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY")
	}
	if file := query.Get("ssl-ca"); file != "" {
		pem, err := os.ReadFile(file)
		c.RootCAs = x509.NewCertPool()
		if err != nil || !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("the ssl-ca of the admin URL cannot be read, or holds no certificate")
		}
	}
	if cert, key := query.Get("ssl-cert"), query.Get("ssl-key"); cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, errors.New("the ssl-cert and ssl-key of the admin URL cannot be read, or do not belong together")
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// verifyChain verifies the server's certificate without its name.
func verifyChain(s tls.ConnectionState, roots *x509.CertPool) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("no certificate")
	}
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range s.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := s.PeerCertificates[0].Verify(o)
	return err
}
