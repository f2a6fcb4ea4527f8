"""A group of completions: what one prompt got from a language model, as one immutable value.

The group is the unit of everything on the wire, because its rewards are only worth something
beside each other. It is small next to a fragment of images, so it is plain protobuf; only its
arrays are `Tensor`s.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from google.protobuf.message import DecodeError

from vaco.fragment_spec import MAX_LOGP, check_magnitude
from vaco.identity import FragmentId
from vaco.tensors import Array, MalformedFragment, Part, read_tensor, tensor_parts
from vaco.v1 import trajectory_pb2 as pb
from vaco.wire import Span, WireError, field_key, field_number, split

MAX_COMPLETIONS: Final = 4096
RIGHT_REWARD: Final = 1.0
"""A completion with a reward of at least this is a right answer, whoever counts them."""

_ARRAYS: Final[dict[str, np.dtype[Any]]] = {
    "prompt": np.dtype("<i4"),
    "tokens": np.dtype("<i4"),
    "lengths": np.dtype("<i4"),
    "behaviour_logp": np.dtype("<f4"),
    "versions": np.dtype("<i8"),
    "rewards": np.dtype("<f4"),
    "finished": np.dtype(np.bool_),
}
_KEYS: Final = {name: field_key(pb.CompletionGroup, name) for name in _ARRAYS}
_FIELDS: Final = {field_number(pb.CompletionGroup, name): name for name in _ARRAYS}
_MAX_HEAD_BYTES: Final = 4096
_TOKEN_BYTES: Final = 4 + 4 + 8
_COMPLETION_BYTES: Final = 4 + 4 + 1


@dataclass(frozen=True, slots=True, eq=False)
class CompletionGroup:
    """n completions of one prompt, made by one actor.

    Attributes:
        id: identity, by which the learner recognises a resent group.
        weights_incarnation: the learner incarnation that published the weights.
        problem: the prompt's number among the problems to train on.
        prompt: int32 [P], its tokens.
        tokens: int32 [N], of all completions, one after the other. A completion's end token is
            one of its tokens.
        lengths: int32 [n], tokens of each completion; their sum is N. One without tokens is a
            sample that gives no gradient.
        behaviour_logp: float32 [N], of each token under the distribution that was sampled from:
            temperature, top-p and top-k are accounted for.
        versions: int64 [N], of the weights that each token was sampled with.
        rewards: float32 [n].
        finished: bool [n]; False: cut at the budget.
        rollout_seconds: time spent producing, without waiting for credits or weights.

    """

    id: FragmentId
    weights_incarnation: int
    problem: int
    prompt: Array
    tokens: Array
    lengths: Array
    behaviour_logp: Array
    versions: Array
    rewards: Array
    finished: Array
    rollout_seconds: float

    @property
    def samples(self) -> int:
        """n: the ledger counts completions."""
        return int(self.lengths.size)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(getattr(self, name).nbytes for name in _ARRAYS)

    @property
    def acted(self) -> Array:
        """int64 [N]: each entry of `versions` stands for one token."""
        return np.ones_like(self.versions)

    @property
    def min_version(self) -> int:
        """Oldest weights that sampled a token; 0 if there is none."""
        return int(self.versions.min(initial=np.iinfo(np.int64).max)) if self.versions.size else 0

    @property
    def max_version(self) -> int:
        """Newest weights that sampled a token; 0 if there is none."""
        return int(self.versions.max(initial=0))

    @property
    def episode_returns(self) -> Array:
        """float32 [n]: each completion is an episode of one decision."""
        return self.rewards

    def to_parts(self, position: int = 0) -> tuple[list[Part], int]:
        """Return the serialised message in parts; the arrays' memory is referred to, not copied.

        Args:
            position: where in what is sent the message begins; arrays are aligned to that.

        Returns:
            The parts, and how many bytes they are together.

        """
        head = pb.CompletionGroup(
            id=self.id.to_proto(),
            weights_incarnation=self.weights_incarnation,
            min_version=self.min_version,
            max_version=self.max_version,
            problem=self.problem,
            completions=self.samples,
            rollout_seconds=self.rollout_seconds,
        ).SerializeToString()
        parts: list[Part] = [head]
        size = len(head)
        for name, dtype in _ARRAYS.items():
            array = np.asarray(getattr(self, name), dtype)
            before, data = tensor_parts(_KEYS[name], array, position + size)
            parts += (before, data)
            size += len(before) + data.nbytes
        return parts, size


class IncomingCompletions:
    """A serialised `CompletionGroup`, taken apart.

    Attributes:
        head: the message without its arrays.

    """

    __slots__ = ("_data", "_spans", "head")

    def __init__(self, head: pb.CompletionGroup, data: bytes, spans: dict[str, Span]) -> None:
        self.head = head
        self._data = data
        self._spans = spans

    @classmethod
    def parse(cls, data: bytes, span: Span | None = None) -> Self:
        """Take the message in `data` apart; nothing is copied, `data` is kept.

        Raises:
            MalformedFragment: the bytes are no `CompletionGroup`, or an array is there twice.

        """
        try:
            rest, found = split(data, span or (0, len(data)), _FIELDS)
            if len(rest) > _MAX_HEAD_BYTES:
                raise WireError(f"{len(rest)} bytes of other fields than arrays")
            head = pb.CompletionGroup.FromString(rest)
        except (WireError, DecodeError) as error:
            raise MalformedFragment("completions", f"not a message: {error}") from error
        spans: dict[str, Span] = {}
        for number, where in found:
            if _FIELDS[number] in spans:
                raise MalformedFragment(_FIELDS[number], "there twice")
            spans[_FIELDS[number]] = where
        return cls(head, data, spans)

    @property
    def claimed_samples(self) -> int:
        """Completions that it says it has."""
        return self.head.completions

    def array(self, name: str) -> Array:
        """Return a read-only view of an array of one dimension.

        Raises:
            MalformedFragment: it is missing, malformed, or of another dtype.

        """
        if name not in self._spans:
            raise MalformedFragment(name, "missing")
        array = read_tensor(name, self._data, self._spans[name])
        dtype: np.dtype[Any] = _ARRAYS[name]
        if array.dtype != dtype:
            raise MalformedFragment(name, f"dtype {array.dtype}, expected {dtype}")
        if array.ndim != 1:
            raise MalformedFragment(name, f"shape {array.shape}, expected one dimension")
        if dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
            raise MalformedFragment(name, "a bool that is neither 0 nor 1")
        return array


@dataclass(frozen=True, slots=True)
class CompletionSpec:
    """What the groups of one job must look like.

    Attributes:
        vocabulary: every token is below it.
        max_prompt_tokens: bound of P.
        max_completion_tokens: bound of one completion's length.
        group_size: bound of n. An actor that has to leave sends what of a group is complete.
        reward_bound: largest magnitude of a reward.

    """

    vocabulary: int
    max_prompt_tokens: int
    max_completion_tokens: int
    group_size: int
    reward_bound: float

    @property
    def max_samples(self) -> int:
        """Bound of one group's completions."""
        return self.group_size

    @property
    def max_bytes(self) -> int:
        """Bound of one group's arrays."""
        tokens = self.group_size * self.max_completion_tokens
        return (
            4 * self.max_prompt_tokens + tokens * _TOKEN_BYTES + self.group_size * _COMPLETION_BYTES
        )

    def decode(self, incoming: IncomingCompletions) -> CompletionGroup:
        """Return the group, checked: it can be trained on.

        Raises:
            MalformedFragment: naming the field and what is wrong with it.

        """
        head = incoming.head
        group = CompletionGroup(
            id=FragmentId.from_proto(head.id),
            weights_incarnation=head.weights_incarnation,
            problem=head.problem,
            rollout_seconds=head.rollout_seconds,
            **{name: incoming.array(name) for name in _ARRAYS},
        )
        self._check_sizes(head, group)
        for field in ("prompt", "tokens"):
            self._check_tokens(field, getattr(group, field))
        check_magnitude("rewards", group.rewards, self.reward_bound)
        if group.tokens.size:
            check_magnitude("behaviour_logp", group.behaviour_logp, MAX_LOGP)
            if group.behaviour_logp.max() > 0:
                raise MalformedFragment("behaviour_logp", "over 0: a probability over 1")
        if not (math.isfinite(group.rollout_seconds) and group.rollout_seconds >= 0):
            raise MalformedFragment("rollout_seconds", f"{group.rollout_seconds} is no duration")
        _check_versions(head, group)
        return group

    def _check_sizes(self, head: pb.CompletionGroup, group: CompletionGroup) -> None:
        n = group.samples
        if not 0 < n <= min(self.group_size, MAX_COMPLETIONS) or n != head.completions:
            stated = f"{head.completions} stated, at most {self.group_size}"
            raise MalformedFragment("completions", f"{n} ({stated})")
        if not 0 < group.prompt.size <= self.max_prompt_tokens:
            problem = f"{group.prompt.size} tokens, at most {self.max_prompt_tokens}"
            raise MalformedFragment("prompt", problem)
        if group.lengths.min() < 0 or group.lengths.max() > self.max_completion_tokens:
            problem = f"not all are in 0..{self.max_completion_tokens}"
            raise MalformedFragment("lengths", problem)
        total = int(group.lengths.sum())
        for field, size in (
            ("tokens", total),
            ("behaviour_logp", total),
            ("versions", total),
            ("rewards", n),
            ("finished", n),
        ):
            found = getattr(group, field).size
            if found != size:
                raise MalformedFragment(field, f"{found} entries, expected {size}")

    def _check_tokens(self, field: str, tokens: Array) -> None:
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.vocabulary:
            raise MalformedFragment(field, f"a token outside of 0..{self.vocabulary - 1}")


def _check_versions(head: pb.CompletionGroup, group: CompletionGroup) -> None:
    if group.versions.size and group.versions.min() < 0:
        raise MalformedFragment("versions", f"{group.versions.min()} is negative")
    for field, stated, found in (
        ("min_version", head.min_version, group.min_version),
        ("max_version", head.max_version, group.max_version),
    ):
        if stated != found:
            raise MalformedFragment(field, f"{stated}, but the tokens' versions say {found}")
