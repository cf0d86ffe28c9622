#!/bin/bash
# Whether the server works, for Kubernetes' probes: README, "Readiness that predicts". Asks the model for the mask of an
# image of 8 x 8 pixels. Where the answer is late, or the queue has no room, it will do that anybody was answered
# meanwhile: that is a server with much to do, and one that is wedged answers nobody.
# TF Serving's image has bash, grep and timeout, and no curl.
#
# predict.sh [SECONDS to wait] [PORT of REST]
set -u
ends=$((SECONDS + ${1:-60})) port=${2:-8501}
image='iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR4nGNsYIAAJgaKGAAmCACQXTClHgAAAABJRU5ErkJggg=='
body='{"signature_name": "serving_rest", "inputs": {"image_bytes": [{"b64": "'"$image"'"}]}}'

# The first line that begins with $1 of the answer to METHOD $2, PATH $3, BODY $4.
line() {
  exec 3<> "/dev/tcp/127.0.0.1/$port" || exit 1
  printf '%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n' "$2" "$3" >&3
  printf 'Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' "${#4}" "$4" >&3
  timeout "$((ends > SECONDS ? ends - SECONDS : 1))" grep -m 1 "^$1" <&3
}

# How many predictions have succeeded, in TF Serving's own words: they change with each.
answered() {
  line ':tensorflow:serving:runtime_latency_count{model_name="flexunet"' GET /monitoring/prometheus/metrics ''
}

before=$(answered)
status=$(line 'HTTP/1.' POST /v1/models/flexunet:predict "$body")
[[ "$status" == "HTTP/1."?" 200"* ]] && exit 0
while :; do
  now=$(answered)
  [[ -n "$before" && -n "$now" && "$now" != "$before" ]] && exit 0
  ((SECONDS < ends)) || exit 1
  sleep 1
done
