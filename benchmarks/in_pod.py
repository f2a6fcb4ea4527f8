"""Run the operator as in a pod: `python benchmarks/in_pod.py FOLDER FLAG...`, as root.

It finds the service account's files, `token` and `ca.crt` of FOLDER, where the kubelet would have
put them, and in the environment where the API server is. Nothing else on the machine sees them.
"""

import os
import sys

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
OPERATOR = ("-m", "vaco_operator.cluster")
# In a mount namespace of its own, which ends with the process.
_PLACE = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p "$0"
cp "$1/token" "$1/ca.crt" "$0"
shift
exec "$@"
"""

if __name__ == "__main__":
    folder, *flags = sys.argv[1:]
    place = ("unshare", "--mount", "sh", "-c", _PLACE, ACCOUNT, folder)
    os.execvp(place[0], (*place, sys.executable, *OPERATOR, *flags))  # noqa: S606
