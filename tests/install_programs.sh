#!/usr/bin/env bash
# Install Debian's Prometheus and Chromium for the tests that run them, and skip without them. Where
# they cannot be installed nothing happens. The tests start their own: no service is left running.
set -u
missing=()
command -v promtool >/dev/null && command -v prometheus >/dev/null || missing+=(prometheus)
command -v chromium >/dev/null || missing+=(chromium)
[ "${#missing[@]}" -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "without ${missing[*]}: installing needs root and apt-get; their tests are skipped" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if apt-get update -qq && apt-get install -y -qq -o DPkg::Lock::Timeout=60 --no-install-recommends "${missing[@]}"; then
    # Only where the package has started it: a container has no systemd.
    [ -d /run/systemd/system ] && systemctl disable --now --quiet prometheus 2>/dev/null
else
    echo "without ${missing[*]}: they could not be installed; their tests are skipped" >&2
fi
exit 0
