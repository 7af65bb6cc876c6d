#!/usr/bin/env bash
# Installs what tern needs to build and test, from the distribution's packages (Debian 12, Ubuntu 24.04).
# Arguments name further packages. Does nothing where all of it is there. Needs root or sudo otherwise.
set -euo pipefail

packages=(g++ cmake ninja-build git python3 libyaml-cpp-dev libspdlog-dev libcli11-dev libgtest-dev libopenblas-dev
          nlohmann-json3-dev libxxhash-dev libarchive-dev libpng-dev zlib1g-dev xz-utils "$@")

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "dependencies: all present"
  exit 0
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install ${missing[*]} as root, then run this again" >&2; exit 1; }
  as_root=(sudo)
fi
echo "dependencies: installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
