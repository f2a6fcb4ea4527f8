"""What can go wrong with a test cluster, in the two ways that matter to who asked for it."""


class ClusterError(RuntimeError):
    """The cluster should have come up, or kept running, and did not."""


class Unavailable(RuntimeError):  # noqa: N818 - a state of the machine, not a fault of the cluster
    """This machine cannot have such a cluster (no Go, not root, no such kernel feature)."""
