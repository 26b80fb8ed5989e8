#!/usr/bin/env bash
# Make the secrets that compose.yaml reads, once; those that are there stay.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p models
# Nobody but their owner comes near them here. They are mounted one by one as they are,
# and the containers' user is another one: so the files themselves can be read.
mkdir -p -m 0700 secrets
umask 022
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
for name in db_password ray_token grafana_password; do
  [ -s "secrets/$name" ] || random > "secrets/$name"
done
[ -s secrets/db_url ] || printf 'postgresql://evomerge:%s@postgres/evomerge' \
  "$(cat secrets/db_password)" > secrets/db_url
echo "docker/secrets: db_password, db_url, ray_token, grafana_password"
