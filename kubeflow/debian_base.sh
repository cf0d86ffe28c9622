#!/bin/sh
# Makes a base for kubeflow/Dockerfile from Debian 12's packages, where no registry of images can be reached:
#
#   kubeflow/debian_base.sh localhost/debian-python:bookworm
#   buildah bud --isolation chroot --network host -f kubeflow/Dockerfile \
#     --build-arg BASE_IMAGE=localhost/debian-python:bookworm -t localhost/flexunet .
#
# Needs root, debootstrap and buildah. MIRROR names another mirror, CERTIFICATES a file of the authorities to trust.
set -eu
image=${1:?"usage: $0 IMAGE"}
mirror=${MIRROR:-http://deb.debian.org/debian}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$folder/root" "$mirror"
# What apt leaves; a container's init needs none of it.
rm -rf "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/lib/apt/lists/* "$folder"/root/dev/*
if [ -n "${CERTIFICATES:-}" ]; then
  cp "$CERTIFICATES" "$folder/root/etc/ssl/certs/ca-certificates.crt"
fi

container=$(buildah from scratch)
buildah add --quiet "$container" "$folder/root" /
buildah config --cmd /bin/bash --label org.opencontainers.image.title=debian-python "$container"
if [ -n "${CERTIFICATES:-}" ]; then
  bundle=/etc/ssl/certs/ca-certificates.crt
  buildah config --env "SSL_CERT_FILE=$bundle" --env "PIP_CERT=$bundle" "$container"
fi
buildah commit --quiet "$container" "$image"
buildah rm "$container" >/dev/null
