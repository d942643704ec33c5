package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"vortex"
)

// Dir is the directory of a process's keys and certificates; it and its files are for their owner only. Programs that read files
// themselves find the names below in it: the certificate is replaced when it is renewed, its key stays.
type Dir string

// The files of a Dir, PEM.
const (
	CertFile  = "node.crt"
	KeyFile   = "node.key"
	CAFile    = "ca.crt"
	CAKeyFile = "ca.key" // servers only
	// GossipFile holds the key that the members of the cluster share, hexadecimal.
	GossipFile = "gossip.key"
)

// Path returns the path of a file.
func (d Dir) Path(file string) string { return filepath.Join(string(d), file) }

// Read returns what a file holds, NotFound when there is none.
func (d Dir) Read(file string) ([]byte, error) {
	data, err := os.ReadFile(d.Path(file))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, vortex.Errorf(vortex.NotFound, "there is no %s", d.Path(file))
	case err != nil:
		return nil, vortex.Errorf(vortex.Unavailable, "%s cannot be read: %w", d.Path(file), err)
	}
	return data, nil
}

// Write replaces a file whole, or leaves it as it was. It is on the disk when Write returns.
func (d Dir) Write(file string, data []byte) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return vortex.Errorf(vortex.Unavailable, "the directory of certificates cannot be made: %w", err)
	}
	if err := d.replace(file, data); err != nil {
		return vortex.Errorf(vortex.Unavailable, "%s cannot be written: %w", d.Path(file), err)
	}
	return nil
}

func (d Dir) replace(file string, data []byte) error {
	f, err := os.CreateTemp(string(d), "."+file+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), d.Path(file))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	parent, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

// Key returns the process's key, and makes it when there is none.
func (d Dir) Key() (*ecdsa.PrivateKey, error) {
	text, err := d.Read(KeyFile)
	if err == nil {
		key, err := parseKey(text)
		if err != nil {
			return nil, vortex.Errorf(vortex.Invalid, "%s: %w", d.Path(KeyFile), err)
		}
		return key, nil
	}
	if !vortex.IsKind(err, vortex.NotFound) {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	if text, err = encodeKey(key); err != nil {
		return nil, err
	}
	return key, d.Write(KeyFile, text)
}

// SigningRequest returns a certificate signing request, DER, that proves to have the key. It says nothing else: what a certificate says
// is decided by who signs it.
func SigningRequest(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a signing request: %w", err)
	}
	return der, nil
}

// ParseSigningRequest returns the public key whose owner made a signing request, and its hash as KeyHash has it.
func ParseSigningRequest(der []byte) (pub crypto.PublicKey, hash string, err error) {
	req, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = req.CheckSignature()
	}
	if err != nil {
		return nil, "", vortex.Errorf(vortex.Invalid, "expected a PKCS #10 signing request in DER: %w", err)
	}
	return req.PublicKey, hashOf(req.RawSubjectPublicKeyInfo), nil
}

// CA returns the cluster's CA, NotFound on machines that do not have it.
func (d Dir) CA() (*CA, error) {
	key, err := d.Read(CAKeyFile)
	if err != nil {
		return nil, err
	}
	cert, err := d.Read(CAFile)
	if err != nil {
		return nil, err
	}
	ca, err := ParseCA(cert, key)
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "%s: %w", d.Path(CAFile), err)
	}
	return ca, nil
}

// Bundle is what a signer gives: a certificate and whom to trust, PEM.
type Bundle struct {
	Certificate []byte
	CA          []byte // of the cluster, the one that signs first
	CAKey       []byte // for servers; empty: unchanged
	GossipKey   []byte // hexadecimal; empty: unchanged
}

// Install keeps a bundle, if the certificate is for the directory's key and from the bundle's CA.
func (d Dir) Install(b Bundle) error {
	key, err := d.Key()
	if err != nil {
		return err
	}
	if _, err := newHeld(key, b.Certificate, b.CA); err != nil {
		return err
	}
	if len(b.CAKey) > 0 {
		if _, err := ParseCA(b.CA, b.CAKey); err != nil {
			return err
		}
		if err := d.Write(CAKeyFile, b.CAKey); err != nil {
			return err
		}
	}
	if len(b.GossipKey) > 0 {
		if err := d.Write(GossipFile, b.GossipKey); err != nil {
			return err
		}
	}
	if err := d.Write(CAFile, b.CA); err != nil {
		return err
	}
	return d.Write(CertFile, b.Certificate)
}

// gossipKeyBytes is the length of the members' shared key.
const gossipKeyBytes = 32

// Found makes the CA of a new cluster, and the key that its members share, and keeps them.
func (d Dir) Found(cluster string) error {
	ca, err := NewCA(cluster)
	if err != nil {
		return err
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return err
	}
	shared := make([]byte, gossipKeyBytes)
	_, _ = rand.Read(shared) // never fails
	return errors.Join(d.Write(GossipFile, []byte(hex.EncodeToString(shared))), d.Write(CAKeyFile, key), d.Write(CAFile, ca.CertPEM()))
}

// Sign gets a certificate for the directory's key from the CA that is kept beside it.
func (d Dir) Sign(req Request) (Bundle, error) {
	key, err := d.Key()
	if err != nil {
		return Bundle{}, err
	}
	ca, err := d.CA()
	if err != nil {
		return Bundle{}, err
	}
	trusted, err := d.Read(CAFile)
	if err != nil {
		return Bundle{}, err
	}
	cert, err := ca.Sign(key.Public(), req)
	return Bundle{Certificate: cert, CA: trusted}, err
}
