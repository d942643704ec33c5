// Package pki is who belongs to a cluster: its CA, the certificates the CA signs for servers and nodes, and the holder that
// keeps a process's own certificate fresh.
//
// Every process has one key pair and one certificate for both sides of a connection. The subject's common name is the node's name, its
// organization is what it is (Server or Node), and a URI vortex://<cluster>/<epoch> says of which cluster. Trust is by what a certificate says and
// not by the address it was found at: a connection to a server takes any server of this cluster, and nobody else.
//
// It guarantees that every handshake uses the newest certificate and trust, so that nothing has to restart and no open
// connection ends when they change; that files are replaced whole or not at all and are readable by their owner only; and that a
// private key never leaves Dir, except the CA's, which CA.KeyPEM gives for another server. It knows neither the store nor the wire.
//
//	ca, err := pki.NewCA("prod-7f3a")
//	key, err := dir.Key()                                     // made when there is none
//	cert, err := ca.Sign(key.Public(), pki.Request{Identity: id, Lifetime: 24 * time.Hour})
//	err = dir.Install(pki.Bundle{Certificate: cert, CA: ca.CertPEM()})
//	holder, err := pki.Open(dir)
//	holder.Renew = …; go holder.Run(ctx)
//	listener = tls.NewListener(listener, holder.Server("h2"))
package pki
