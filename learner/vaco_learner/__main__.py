"""`python -m vaco_learner`: the learner of one job."""

import argparse
import logging
import sys
from pathlib import Path

from vaco.errors import EXIT_PERMANENT, UserError

from vaco_learner.application import Options, handle_signals, run
from vaco_learner.control import Control


def main() -> int:
    """Run the learner; return its exit status (see `vaco.errors`)."""
    options = _parse(sys.argv[1:])
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    control = Control()
    handle_signals(control)
    try:
        return run(options, control)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_PERMANENT


def _parse(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(prog="vaco_learner", description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="manifest with metadata.uid")
    parser.add_argument("--run-dir", type=Path, required=True, help="where everything is written")
    parser.add_argument("--listen", default="127.0.0.1:0", help="host and port; port 0: any")
    parser.add_argument("--address-file", type=Path, help="gets the address listened on")
    parser.add_argument("--metrics-port", type=int, default=0, help="Prometheus; 0: any port")
    parser.add_argument("--debug", action="store_true", help="serve gRPC reflection")
    given = parser.parse_args(arguments)
    return Options(
        job=given.job,
        run_dir=given.run_dir,
        listen=given.listen,
        address_file=given.address_file,
        metrics_port=given.metrics_port,
        debug=given.debug,
    )


if __name__ == "__main__":
    sys.exit(main())
