#!/usr/bin/env bash
# Installs what is missing: npm packages, and Debian packages for the oracle tests or the demo.
# Usage: scripts/setup.sh [debian-package:command-or-file ...]
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
for pair in "$@"; do
  command -v "${pair#*:}" >/dev/null 2>&1 || [ -e "${pair#*:}" ] || missing+=("${pair%%:*}")
done
if [ "${#missing[@]}" -gt 0 ]; then
  echo "setup: installing Debian packages: ${missing[*]}"
  run() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
  export DEBIAN_FRONTEND=noninteractive
  run apt-get update -qq
  run apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  echo 'setup: installing npm packages'
  # Not `npm ci`: it refuses a lock file without the optional packages of every other platform.
  npm install --no-save --no-audit --no-fund --loglevel=error
  touch node_modules/.package-lock.json
fi
