#!/bin/bash
# Set a worker host up: run once by user data, as root, when an instance starts for the first time. User data has put
# the settings and this folder where they belong. Ends when the worker is online, or with an exit code that is not 0.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
root=/opt/prefect-worker
user=prefect-worker

# Swap makes room for dnf and pip on the smallest instances. On the encrypted disk, and readable by root only.
if [ ! -e /var/swapfile ] && [ "$(awk '/^MemTotal/ {print $2}' /proc/meminfo)" -lt 2000000 ]; then
    fallocate --length 1GiB /var/swapfile
    chmod 0600 /var/swapfile
    mkswap /var/swapfile
    echo '/var/swapfile none swap defaults 0 0' >>/etc/fstab
    swapon /var/swapfile
fi

dnf --assumeyes --quiet --releasever=latest upgrade --security
dnf --assumeyes --quiet install python3.11 python3.11-pip

id "$user" >/dev/null 2>&1 || useradd --system --home-dir /var/lib/prefect-worker --shell /usr/sbin/nologin "$user"
python3.11 -m venv "$root/venv"
# Exactly what the release was tested with: versions, and the hashes of their files. Nothing is built here.
"$root/venv/bin/pip" install --quiet --no-cache-dir --disable-pip-version-check --only-binary=:all: --require-hashes \
    --requirement "$here/requirements.txt"

install --mode=0644 --target-directory=/etc/systemd/system "$here"/*.service "$here"/*.timer
systemctl daemon-reload
systemctl enable --now prefect-worker.service prefect-worker-logs.service prefect-worker-health.timer \
    prefect-worker-updates.timer

cd "$root/code"
"$root/venv/bin/python" -m cdk_prefect_ecs.host.check_worker --online
