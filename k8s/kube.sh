#!/usr/bin/env bash
# What the k8s targets of make do: k8s/kube.sh deploy|status|port-forward|push|
# minikube-start|minikube-deploy|minikube-service. IMAGE names the image, OVERLAY the overlay.
set -euo pipefail
cd "$(dirname "$0")/.."
namespace=webrtc-signaling
overlay=${OVERLAY:-daemonset}
image=${IMAGE:-signal:dev}

advise() {
  echo "kube.sh: $*" >&2
  exit 1
}

# need makes sure that programs are there.
need() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null && continue
    case $program in
    kubectl) advise "kubectl is missing: install it from https://kubernetes.io/docs/tasks/tools/, and let it know your cluster" ;;
    minikube) advise "minikube is missing: install it from https://minikube.sigs.k8s.io/docs/start/" ;;
    *) advise "$program is missing: install it" ;;
    esac
  done
}

# need_cluster makes sure that kubectl reaches one: without a cluster it speaks of localhost:8080.
need_cluster() {
  need kubectl
  kubectl version --request-timeout 10s >/dev/null 2>&1 ||
    advise "no cluster answers kubectl: choose one with kubectl config use-context, or start one on this machine with make minikube-start"
}

# in_registry refuses names that only this machine knows.
in_registry() {
  case $image in
  */*:*) ;;
  *) advise "IMAGE=$image is no image that a cluster can pull: say IMAGE=registry.example.org/signal:1.0" ;;
  esac
}

# apply applies a directory and waits for the pods of every overlay.
apply() {
  kubectl apply -k "$1"
  kubectl -n "$namespace" rollout status daemonset/signaling --timeout 15m
}

deploy() {
  in_registry
  [ -d "k8s/$overlay" ] || advise "OVERLAY=$overlay: there is no k8s/$overlay"
  need_cluster
  k8s/secrets.sh
  if ! grep -q '^TRUSTED_PROXIES=.' k8s/base/settings.env; then
    echo "TRUSTED_PROXIES in k8s/base/settings.env is empty: behind a gateway or an ingress controller pages are refused until it names the addresses of that"
  fi
  mkdir -p dist/k8s
  cat >dist/k8s/kustomization.yaml <<END
resources: [../../k8s/$overlay]
images:
  - {name: registry.example.org/signal, newName: ${image%:*}, newTag: "${image##*:}"}
END
  echo "applying k8s/$overlay with $image"
  apply dist/k8s
  [ "$overlay" != autoscaled ] || kubectl -n "$namespace" rollout status deployment/signaling-deployment --timeout 15m
}

case ${1:-} in
deploy)
  need kubectl
  deploy
  ;;
push)
  need docker
  in_registry
  echo "pushing $image"
  docker push "$image"
  ;;
status)
  need_cluster
  echo "what runs in namespace $namespace, and its warnings"
  kubectl -n "$namespace" get daemonset,deployment,statefulset,pods,service,ingress,hpa,poddisruptionbudget -o wide
  kubectl -n "$namespace" get events --sort-by .lastTimestamp --field-selector type=Warning
  ;;
port-forward)
  need_cluster
  echo "http://localhost:8080 is the cluster's service until you press Ctrl-C"
  kubectl -n "$namespace" port-forward service/signaling 8080:80
  ;;
minikube-start)
  need minikube
  echo "starting a cluster on this machine"
  minikube start
  ;;
minikube-deploy)
  need minikube
  need_cluster
  k8s/secrets.sh
  echo "applying k8s/minikube with signal:dev"
  minikube image load signal:dev
  apply k8s/minikube
  ;;
minikube-service)
  need minikube
  minikube service -n "$namespace" signaling --url
  ;;
*) advise "say deploy, status, port-forward, push, minikube-start, minikube-deploy or minikube-service" ;;
esac
