package authz_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"

	"vortex/internal/authz"
)

// certificate is what a verified certificate of a name with these organizations says.
func certificate(t *testing.T, name string, roles ...string) *authz.Identity {
	t.Helper()
	return authz.Identify(&x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: roles}})
}
