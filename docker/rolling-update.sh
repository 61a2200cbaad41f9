#!/bin/sh
# Builds the image anew and replaces one node after the other. docs/deploying/docker.md explains the order and the times.
#
# A node gets TERM, leaves the proxy during REALTIME_LAME_DUCK, drains, and is started with the new image. The next one
# follows when it is healthy. The first failure ends the update; the nodes behind it then still run the old image.
set -eu
cd "$(dirname "$0")"

docker compose build node-1
for node in node-1 node-2; do
    docker compose up --detach --no-deps --wait "$node"
done
