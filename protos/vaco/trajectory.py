"""The way of a sample, actor to learner: the types that cross it, from one place."""

from vaco.fragment import Fragment, FragmentId
from vaco.fragment_spec import ArraySpec, FragmentSpec
from vaco.framing import FrameAssembler, frames
from vaco.tensors import MalformedFragment

__all__ = [
    "ArraySpec",
    "Fragment",
    "FragmentId",
    "FragmentSpec",
    "FrameAssembler",
    "MalformedFragment",
    "frames",
]
