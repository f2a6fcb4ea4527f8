"""`python -m vaco_learner`: the learner of one job."""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from vaco.allocator import keep_freed_memory
from vaco.channels import is_loopback
from vaco.errors import EXIT_PERMANENT, UserError

from vaco_learner.application import Options, handle_signals, run
from vaco_learner.control import Control


def main() -> int:
    """Run the learner; return its exit status (see `vaco.errors`)."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    keep_freed_memory()
    control = Control()
    handle_signals(control)
    try:
        return run(_parse(sys.argv[1:]), control)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_PERMANENT


def _parse(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(prog="vaco_learner", description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="manifest with metadata.uid")
    parser.add_argument("--run-dir", type=Path, required=True, help="where everything is written")
    parser.add_argument("--listen", default="127.0.0.1:0", help="host and port; port 0: any")
    parser.add_argument("--address-file", type=Path, help="gets the address listened on")
    parser.add_argument("--metrics-host", help="of probes and metrics; default: that of --listen")
    parser.add_argument("--metrics-port", type=int, default=0, help="of the same; 0: any port")
    parser.add_argument(
        "--incarnation",
        type=int,
        help="of this learner, at least; default: 1 on loopback, elsewhere the seconds since 1970,"
        " so that who lost its run directory is still newer than what its actors remember",
    )
    parser.add_argument(
        "--termination-log",
        type=Path,
        default=os.environ.get("VACO_TERMINATION_LOG") or None,
        help="gets the last status, 4096 bytes at most; default: $VACO_TERMINATION_LOG",
    )
    parser.add_argument("--debug", action="store_true", help="serve gRPC reflection")
    given = parser.parse_args(arguments)
    least = given.incarnation
    if least is None:
        least = 1 if is_loopback(given.listen) else int(time.time())
    if least < 1:
        raise UserError("--incarnation", f"{least}, but incarnations count from 1")
    host: str = given.metrics_host or given.listen.rpartition(":")[0].strip("[]")
    return Options(
        job=given.job,
        run_dir=given.run_dir,
        listen=given.listen,
        address_file=given.address_file,
        metrics_host=host,
        metrics_port=given.metrics_port,
        incarnation=least,
        termination_log=given.termination_log,
        debug=given.debug,
    )


if __name__ == "__main__":
    sys.exit(main())
