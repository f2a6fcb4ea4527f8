"""The way of a sample, actor to learner: the types that cross it, from one place."""

from vaco.completions import CompletionGroup, CompletionSpec, IncomingCompletions
from vaco.experience import Experience, ExperienceSpec, IncomingExperience
from vaco.fragment import Fragment
from vaco.fragment_spec import ArraySpec, FragmentSpec
from vaco.framing import (
    Request,
    RequestReader,
    add_trajectory_servicer,
    request_parts,
    to_requests,
    trajectory_stream,
)
from vaco.identity import FragmentId
from vaco.incoming import IncomingFragment
from vaco.tensors import MalformedFragment

__all__ = [
    "ArraySpec",
    "CompletionGroup",
    "CompletionSpec",
    "Experience",
    "ExperienceSpec",
    "Fragment",
    "FragmentId",
    "FragmentSpec",
    "IncomingCompletions",
    "IncomingExperience",
    "IncomingFragment",
    "MalformedFragment",
    "Request",
    "RequestReader",
    "add_trajectory_servicer",
    "request_parts",
    "to_requests",
    "trajectory_stream",
]
