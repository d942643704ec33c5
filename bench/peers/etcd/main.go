// Command etcd is the etcd server at the version that bench/peers/go.mod pins. It cannot be installed by its own path, because its
// module has replace lines; this program of a module of ours can be built.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
