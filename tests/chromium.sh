# To be sourced: installs Debian's Chromium for the browser suites if it is missing.

if ! command -v chromium >/dev/null; then
  echo "installing chromium"
  as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null
fi
