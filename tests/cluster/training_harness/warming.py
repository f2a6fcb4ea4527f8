"""A job whose simulator is slow until a file is there: it is scaled up, and then down.

How fast learner and actors are depends on the machine and on what else it does; which of them is
the faster does not here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kube_harness.programs import PROJECT
from training_harness.machine_python import bind_folder

if TYPE_CHECKING:
    from kube_harness.api import Api

_CLAIM: Final = "simulator"
_MOUNTED: Final = "/simulator"
_SIGNAL: Final = "warm"
CHANGE: Final[dict[str, Any]] = {
    "task": {
        "environment": "test/WarmingCartPole-v0",
        "imports": [str(PROJECT / "tests" / "environments" / "warming.py")],
        "kwargs": {"warm": f"{_MOUNTED}/{_SIGNAL}", "seconds": 0.002},
    },
    # Its learner trains less than one warm actor makes, whatever else the machine has to do.
    "policy": {"network": {"hiddenSizes": [256, 256]}},
    "rollout": {"environmentsPerActor": 16},
    "actors": {
        "podTemplate": {
            "spec": {
                "volumes": [{"name": _CLAIM, "persistentVolumeClaim": {"claimName": _CLAIM}}],
                "containers": [
                    {
                        "name": "actor",
                        "volumeMounts": [{"name": _CLAIM, "mountPath": _MOUNTED}],
                    }
                ],
            }
        }
    },
    # Users wait for a minute before they give actors back, tests do not.
    "autoscaling": {"scaleDown": {"stabilizationWindowSeconds": 2}},
}
"""What is to be changed in the spec of `examples/cartpole.yaml`."""


def prepare(api: Api, namespace: str, folder: Path) -> None:
    """Make the folder that such a job's actors look into."""
    folder.mkdir(parents=True)
    bind_folder(api, namespace, _CLAIM, folder)


def signal(folder: Path) -> Path:
    """Return the file that is to be made when the simulator is warm."""
    return folder / _SIGNAL
