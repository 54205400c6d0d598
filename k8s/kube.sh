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

# tool makes sure that a program is there.
tool() {
  command -v "$1" >/dev/null || advise "$1 is missing: $2"
}

kubectl() {
  tool kubectl "install it from https://kubernetes.io/docs/tasks/tools/, and let it know your cluster"
  command kubectl "$@"
}

minikube() {
  tool minikube "install it from https://minikube.sigs.k8s.io/docs/start/"
  command minikube "$@"
}

# in_registry refuses names that only this machine knows.
in_registry() {
  case $image in
  */*:*) ;;
  *) advise "IMAGE=$image is no image that a cluster can pull: say IMAGE=registry.example.org/signal:1.0" ;;
  esac
}

deploy() {
  in_registry
  k8s/secrets.sh
  mkdir -p dist/k8s
  cat >dist/k8s/kustomization.yaml <<END
resources: [../../k8s/$overlay]
images:
  - {name: registry.example.org/signal, newName: ${image%:*}, newTag: "${image##*:}"}
END
  echo "applying k8s/$overlay with $image"
  kubectl apply -k dist/k8s
  kubectl -n "$namespace" rollout status daemonset/signaling --timeout 15m
}

case ${1:-} in
deploy) deploy ;;
push)
  in_registry
  docker push "$image"
  ;;
status)
  kubectl -n "$namespace" get daemonset,deployment,statefulset,pods,service,ingress,hpa,poddisruptionbudget -o wide
  kubectl -n "$namespace" get events --sort-by .lastTimestamp --field-selector type=Warning
  ;;
port-forward)
  echo "http://localhost:8080 is the cluster's service until you press Ctrl-C"
  kubectl -n "$namespace" port-forward service/signaling 8080:80
  ;;
minikube-start) minikube start ;;
minikube-deploy)
  k8s/secrets.sh
  minikube image load signal:dev
  kubectl apply -k k8s/minikube
  kubectl -n "$namespace" rollout status daemonset/signaling --timeout 5m
  ;;
minikube-service) minikube service -n "$namespace" signaling --url ;;
*) advise "say deploy, status, port-forward, push, minikube-start, minikube-deploy or minikube-service" ;;
esac
