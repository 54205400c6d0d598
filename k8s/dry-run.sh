#!/usr/bin/env bash
# Builds a real API server, etcd and the controller of DaemonSets in dist/kube from the Go module proxy, unless
# they are there. The server checks what every overlay would apply, and the controller leaves a machine: k8s/dry-run.sh
set -euo pipefail
cd "$(dirname "$0")/.."
version=1.34.1
mkdir -p dist/kube/{etcd,daemonsets}
cd dist/kube
if [ ! -x apiserver ] || [ ! -x etcd/etcd ] || [ ! -x daemonsets/daemonsets ]; then
  echo "building kube-apiserver $version etcd and the controller of DaemonSets in dist/kube: some minutes, 1.5 GB of modules and build cache"
  cat >etcd/main.go <<'END'
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
END
  cat >daemonsets/main.go <<'END'
package main

import (
	"context"
	"log"
	"os"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/kubernetes/pkg/controller/daemon"
)

// main runs the controller with the API server at the URL and with the token in its arguments.
func main() {
	config := &rest.Config{Host: os.Args[1], BearerToken: os.Args[2], TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	all := informers.NewSharedInformerFactory(client, 0)
	controller, err := daemon.NewDaemonSetsController(ctx, all.Apps().V1().DaemonSets(), all.Apps().V1().ControllerRevisions(),
		all.Core().V1().Pods(), all.Core().V1().Nodes(), client, flowcontrol.NewBackOff(time.Second, time.Minute))
	if err != nil {
		log.Fatal(err)
	}
	all.Start(ctx.Done())
	controller.Run(ctx, 1)
}
END
  cat >apiserver.go <<'END'
//go:build never

package kube

import _ "k8s.io/kubernetes/cmd/kube-apiserver/app"
END
  # The module names libraries as directories of its own repository, which only replacements make good.
  kubernetes=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
  {
    printf 'module kube\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes v%s\n' "$version"
    sed -n 's/^\tgo.etcd.io\/etcd\/server\/v3 \(v[^ ]*\).*/require go.etcd.io\/etcd\/server\/v3 \1/p' "$kubernetes"
    sed -n "s/^\t\(k8s.io\/[^ ]*\) => .\/staging.*/replace \1 => \1 v0.${version#1.}/p" "$kubernetes"
  } >go.mod
  go mod tidy
  go build -o etcd/etcd ./etcd
  go build -o daemonsets/daemonsets ./daemonsets
  go build -o daemonsets/daemonsets ./daemonsets
  go build -o apiserver k8s.io/kubernetes/cmd/kube-apiserver
fi
kube=$PWD
cd ../../k8s
go vet -tags apiserver .
go test -tags apiserver -race -count=1 -v -run '^(TestDryRun|TestMachineIsLeftByTheController)$' . -kube "$kube"
