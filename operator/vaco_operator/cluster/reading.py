"""A VACOJob as the API server has it, read by an operator that may be older than its definition.

During an upgrade the definition is newer than the operator that still leads: the server fills in
defaults of fields that this operator has never heard of. It has pruned what its definition does not
know, so a field that we do not know is one of a newer release, and is left out.
"""

from collections.abc import Iterable
from copy import deepcopy

from pydantic import ValidationError
from vaco.job import VACOJob, parse_job
from vaco.schema.problems import Translator
from vaco.schema.sound import Place
from vaco.schema.tree import tree_of

from vaco_operator.cluster.resources import Document


def read_job(document: Document) -> VACOJob:
    """Read a job without its status.

    Raises:
        JobError: what this operator knows of it is not as it must be.

    """
    document = {name: part for name, part in document.items() if name != "status"}
    try:
        return VACOJob.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        place = Translator(tree_of(VACOJob), document, {}).place
        found = error.errors(include_url=False)
        unknown = [place(each) for each in found if each["type"] == "extra_forbidden"]
    return parse_job(_without(document, unknown))


def _without(document: Document, places: Iterable[Place]) -> Document:
    kept = deepcopy(document)
    for *parents, name in places:
        part = kept
        for step in parents:
            part = part[step]  # type: ignore[index] # a place of pydantic's is one in the document
        del part[name]  # type: ignore[arg-type]
    return kept
