"""`python -m vaco_operator.cluster`: the operator."""

import asyncio
import os
import sys

from vaco.errors import UserError

from vaco_operator.cluster import application, logs
from vaco_operator.cluster.contract import MakeReconciler
from vaco_operator.cluster.settings import read_settings

EXIT_BAD_INPUT = 2


def main(arguments: list[str], make_reconciler: MakeReconciler) -> int:
    """Run the operator; returns its exit status."""
    try:
        settings = read_settings(arguments)
        logs.configure(settings.log_level)
        asyncio.run(application.run(settings, make_reconciler))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_BAD_INPUT
    return 0


if __name__ == "__main__":
    # Its own log is no JSON, and what it has to say of a channel is in ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from vaco_operator.cluster.reconcile import Reconciler

    sys.exit(main(sys.argv[1:], Reconciler))
