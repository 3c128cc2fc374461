#!/usr/bin/env bash
# Installs what is missing, builds, and runs every check. The last line is "N passed, N failed".
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh qemu-utils:qemu-img e2fsprogs:mke2fs cryptsetup-bin:cryptsetup bzip2:bzip2 xz-utils:xz p7zip-full:7z dmg2img:dmg2img tabix:bgzip zstd:zstd dosfstools:mkfs.vfat mtools:mdir
exec node scripts/test.mjs "$@"
