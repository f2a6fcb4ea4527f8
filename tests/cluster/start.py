"""Start a test cluster by hand, or build its programs.

    python tests/cluster/start.py run control-plane     # or: run node (as root)
    python tests/cluster/start.py build                 # all programs; or of one tier

`run` prints the KUBECONFIG and holds the cluster until it is interrupted.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from kube_harness import build, cluster, launch, programs
from kube_harness.errors import ClusterError, Unavailable
from kube_harness.processes import Processes

WATCH_SECONDS = 1.0


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="start a cluster and hold it")
    run.add_argument("tier", choices=cluster.TIERS, nargs="?", default=cluster.CONTROL_PLANE)
    run.add_argument("--until-eof", action="store_true", help="hold it until stdin ends")
    building = commands.add_parser("build", help="build programs into .tools/")
    building.add_argument("tier", choices=cluster.TIERS, nargs="?", help="only what it needs")
    arguments = parser.parse_args()
    try:
        if arguments.command == "build":
            build.ensure(cluster.TIERS[arguments.tier] if arguments.tier else programs.ALL, _say)
        else:
            _hold(arguments.tier, until_eof=arguments.until_eof)
    except Unavailable as error:
        _say(str(error))
        return launch.UNAVAILABLE_STATUS
    except ClusterError as error:
        _say(str(error))
        return 1
    return 0


def _hold(tier: str, *, until_eof: bool) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _interrupted)
    started = time.monotonic()
    try:
        with cluster.running(tier, _say) as (up, processes):
            _say(f"ready after {time.monotonic() - started:.1f} s; logs: {up.logs}")
            if until_eof:
                print(up.to_json(), flush=True)  # noqa: T201 - its output
            else:
                _say("Ctrl-C removes the cluster")
                _say(f"kubectl: {programs.binary('kubectl')}")
                print(f"export KUBECONFIG={up.kubeconfig}", flush=True)  # noqa: T201
            _wait(processes, until_eof=until_eof)
    except KeyboardInterrupt:
        _say("removed")


def _wait(processes: Processes, *, until_eof: bool) -> None:
    """Return when stdin ends, raise when a signal comes or a process of the cluster dies."""
    watched = [sys.stdin.fileno()] if until_eof else []
    while True:
        if select.select(watched, [], [], WATCH_SECONDS)[0] and not os.read(0, 4096):
            return
        processes.check()


def _interrupted(number: int, _frame: FrameType | None) -> NoReturn:
    # A second signal must not interrupt the removal.
    for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt(f"signal {number}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - its output


if __name__ == "__main__":
    sys.exit(main())
