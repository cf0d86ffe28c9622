#!/bin/bash
# Asks the model for the mask of an image of 8 x 8 pixels and fails unless it answers: README, "Readiness that predicts".
# TF Serving's image has bash, and neither curl nor a client of gRPC's health checks, which the server does not answer.
#
# predict.sh [SECONDS to wait] [PORT of REST]
set -eu
image='iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR4nGNsYIAAJgaKGAAmCACQXTClHgAAAABJRU5ErkJggg=='
body='{"signature_name": "serving_rest", "inputs": {"image_bytes": [{"b64": "'"$image"'"}]}}'
exec 3<> "/dev/tcp/127.0.0.1/${2:-8501}"
printf 'POST /v1/models/flexunet:predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n' >&3
printf 'Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' "${#body}" "$body" >&3
read -r -t "${1:-5}" status <&3
[[ "$status" == "HTTP/1."?" 200"* ]]
