"""The way of a sample, actor to learner: the types that cross it, from one place."""

from vaco.fragment import Fragment
from vaco.fragment_spec import ArraySpec, FragmentSpec
from vaco.framing import (
    RequestReader,
    add_trajectory_servicer,
    to_requests,
    trajectory_stream,
)
from vaco.identity import FragmentId
from vaco.incoming import IncomingFragment
from vaco.tensors import MalformedFragment

__all__ = [
    "ArraySpec",
    "Fragment",
    "FragmentId",
    "FragmentSpec",
    "IncomingFragment",
    "MalformedFragment",
    "RequestReader",
    "add_trajectory_servicer",
    "to_requests",
    "trajectory_stream",
]
