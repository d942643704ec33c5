package client

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"strings"

	"vortex"
)

// TLS says how a server is trusted and how the client shows who it is. The zero value trusts what the system trusts
// and shows no certificate.
type TLS struct {
	// CA is a file with the certificates to trust, PEM, instead of the system's.
	CA string `yaml:"ca,omitempty" json:"ca,omitempty"`
	// Cert and Key are files with the client's certificate and its key, PEM.
	Cert string `yaml:"cert,omitempty" json:"cert,omitempty"`
	Key  string `yaml:"key,omitempty" json:"key,omitempty"`
	// ServerName is the name the server's certificate must be for; "" is the host of its address.
	ServerName string `yaml:"server_name,omitempty" json:"server_name,omitempty"`
}

// Config reads the files. An error is of kind Invalid and says which file is wrong.
func (t TLS) Config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, vortex.Errorf(vortex.Invalid, "the CA cannot be read: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, vortex.Errorf(vortex.Invalid, "%s holds no certificate; expected PEM that begins with -----BEGIN CERTIFICATE-----", t.CA)
		}
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, vortex.Errorf(vortex.Invalid, "a client certificate needs its key too; give both --cert and --key")
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, vortex.Errorf(vortex.Invalid, "the client certificate %s with key %s cannot be used: %w", t.Cert, t.Key, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// httpClient returns a client of HTTP over TLS.
func (t TLS) httpClient() (*http.Client, error) {
	if t == (TLS{}) {
		return http.DefaultClient, nil
	}
	cfg, err := t.Config()
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck,forcetypeassert // it is one
	transport.TLSClientConfig = cfg
	return &http.Client{Transport: transport}, nil
}

// notAccepted is what to do when a server refuses the client's certificate, or that there is none.
const notAccepted = "it wants a client certificate that its client CA signed and that has not expired: give --cert and --key"

// tlsHint says what to do about a failed connection, from the text of its error and whether TLS was tried; "" when it was
// not TLS that failed.
func tlsHint(text string, secure bool) string {
	for _, known := range []struct{ part, hint string }{
		{"signed by unknown authority", "name the CA of its certificate with --ca"},
		{"certificate is not trusted", "name the CA of its certificate with --ca"},
		{"certificate has expired", "renew the certificate, and look at the clocks of both machines"},
		{"certificate is valid for", "connect by a name in its certificate"},
		{"doesn't contain any IP SANs", "connect by a name in its certificate"},
		{"remote error: tls: certificate required", notAccepted},
		{"remote error: tls: bad certificate", notAccepted},
		{"remote error: tls: expired certificate", notAccepted},
		{"remote error: tls: unknown certificate authority", notAccepted},
		{"does not look like a TLS handshake", "it speaks without TLS: use http:// instead of https://"},
		{"server gave HTTP response to HTTPS client", "it speaks without TLS: use http:// instead of https://"},
		{"malformed HTTP response", "it may speak TLS: use https://"},
	} {
		if strings.Contains(text, known.part) {
			return known.hint
		}
	}
	if !secure && strings.Contains(text, "error reading server preface") {
		return "it may speak TLS: use https://"
	}
	for _, cut := range []string{"broken pipe", "connection reset", "EOF"} { // in TLS 1.3 the reason may come too late to be read
		if secure && strings.Contains(text, cut) {
			return notAccepted
		}
	}
	return ""
}
