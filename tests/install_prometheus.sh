#!/usr/bin/env bash
# Install Debian's Prometheus for tests/test_prometheus_real.py, which skips without it. Where it
# cannot be installed nothing happens. The tests start their own server: the package's is stopped.
set -u
command -v prometheus promtool >/dev/null && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "no Prometheus: installing it needs root and apt-get; its tests will be skipped" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; then
    # Only where the package has started it: a container has no systemd.
    [ -d /run/systemd/system ] && systemctl disable --now --quiet prometheus
else
    echo "no Prometheus: its package could not be installed; its tests will be skipped" >&2
fi
exit 0
