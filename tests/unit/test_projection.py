"""What is compared to find out whether somebody changed a field of ours."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vaco_operator.cluster.projection import digest, projection

SHAPE: dict[str, Any] = {
    "metadata": {"labels": {"ours": "a"}},
    "spec": {
        "containers": [{"name": "learner", "resources": {"requests": {"cpu": "1000m"}}}],
        "policyTypes": ["Ingress"],
    },
}


def live() -> dict[str, Any]:
    """What the server made of it: defaults, its own quantities, and others' fields."""
    return {
        "metadata": {"labels": {"ours": "a", "theirs": "b"}, "uid": "u"},
        "spec": {
            "containers": [
                {"name": "sidecar", "image": "proxy"},
                {"name": "learner", "image": "x", "resources": {"requests": {"cpu": "1"}}},
            ],
            "policyTypes": ["Ingress"],
        },
        "status": {"ready": 1},
    }


def test_only_our_fields_are_left_as_the_server_has_them():
    assert projection(live(), SHAPE) == {
        "metadata": {"labels": {"ours": "a"}},
        "spec": {
            "containers": [{"name": "learner", "resources": {"requests": {"cpu": "1"}}}],
            "policyTypes": ["Ingress"],
        },
    }


def other_label(document: dict[str, Any]) -> None:
    document["metadata"]["labels"]["theirs"] = "c"


def other_container(document: dict[str, Any]) -> None:
    document["spec"]["containers"].reverse()
    document["spec"]["containers"].append({"name": "third"})


def our_label(document: dict[str, Any]) -> None:
    document["metadata"]["labels"]["ours"] = "b"


def our_container(document: dict[str, Any]) -> None:
    document["spec"]["containers"] = []


def our_list(document: dict[str, Any]) -> None:
    document["spec"]["policyTypes"].append("Egress")


def our_part(document: dict[str, Any]) -> None:
    document["spec"] = None


@pytest.mark.parametrize(
    ("edit", "seen"),
    [
        (other_label, False),
        (other_container, False),
        (our_label, True),
        (our_container, True),
        (our_list, True),
        (our_part, True),
    ],
)
def test_an_edit_is_seen_if_it_is_of_our_fields(edit, seen):
    edited = live()
    edit(edited)
    assert (digest(projection(edited, SHAPE)) != digest(projection(live(), SHAPE))) == seen


plain = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "uid", "spec", "a"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@example(document=[], shape=[{"name": []}])
@given(plain, plain)
def test_any_two_documents_can_be_compared_and_one_is_its_own_projection(document, shape):
    projection(document, shape)
    assert projection(document, document) == document
