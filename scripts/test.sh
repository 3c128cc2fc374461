#!/usr/bin/env bash
# Installs what is missing, builds, and runs every check. The last line is "N passed, N failed".
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh qemu-utils:qemu-img qemu-block-extra:/usr/share/doc/qemu-block-extra e2fsprogs:mke2fs cryptsetup-bin:cryptsetup openssl:openssl \
  qemu-system-common:qemu-storage-daemon qemu-system-x86:qemu-system-x86_64 libnbd-bin:nbdinfo python3-libnbd:nbdsh nbd-client:nbd-client nbd-server:nbd-server nbdkit:nbdkit fio:fio \
  openssh-server:/usr/sbin/sshd openssh-client:ssh-agent bzip2:bzip2 xz-utils:xz zstd:zstd tabix:bgzip p7zip-full:7z dmg2img:dmg2img dosfstools:mkfs.vfat mtools:mdir \
  libvmdk-utils:vmdkinfo libvhdi-utils:vhdiinfo libqcow-utils:qcowinfo
exec node scripts/test.mjs "$@"
