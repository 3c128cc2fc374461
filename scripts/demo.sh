#!/usr/bin/env bash
# Sets up, builds, and runs the main job on a real file system image: raw -> qcow2 -> raw,
# inspected, mapped, checked and compared.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh e2fsprogs:mke2fs
[ -e dist/tools/blockgraph.js ] || node scripts/build.mjs --no-types

work="$(mktemp -d "${TMPDIR:-/tmp}/blockgraph-demo.XXXXXX")"
trap 'rm -rf "$work"' EXIT
say() { printf '\n$ %s\n' "$*"; "$@"; }
bg="$PWD/bin/blockgraph"

echo "demo: building an ext4 image of this folder's files"
truncate -s 320M "$work/disk.raw"
PATH="$PATH:/usr/sbin:/sbin" mke2fs -q -t ext4 -d node_modules/typescript "$work/disk.raw"
cd "$work"
say "$bg" convert -p -f raw -O qcow2 disk.raw disk.qcow2
say "$bg" info disk.qcow2
say "$bg" check disk.qcow2
say "$bg" map --max-length 1M disk.qcow2
say "$bg" convert -p -f qcow2 -O raw disk.qcow2 back.raw
say "$bg" compare -f raw -F raw disk.raw back.raw
say "$bg" convert -c -f raw -O qcow2 disk.raw small.qcow2
say "$bg" info small.qcow2
say "$bg" compare disk.qcow2 small.qcow2
