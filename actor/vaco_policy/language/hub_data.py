"""Problems in a data set of the `datasets` library."""

from typing import Any

from vaco.errors import UserError
from vaco.job import HubData

from vaco_policy.language.jsonl import problem_of
from vaco_policy.language.pretrained import first_line
from vaco_policy.language.problem import MAX_PROBLEMS, Problem


def read(data: HubData) -> tuple[list[Problem], list[Problem]]:
    """Return the problems to train on and those held out.

    Raises:
        UserError: `datasets` is not installed, there is no such data set, split or column, or there
            is too much in it.

    """
    return (
        _read(data, data.split, "spec.task.data.split"),
        _read(data, data.held_out_split, "spec.task.data.heldOutSplit"),
    )


def _read(data: HubData, split: str, path: str) -> list[Problem]:
    rows = _load(data, split, path)
    if len(rows) > MAX_PROBLEMS:
        raise UserError(
            path,
            f"'{split}' of {data.name} has {len(rows)} problems, over {MAX_PROBLEMS}",
            f"Name a part of it, such as `{split}[:{MAX_PROBLEMS}]`.",
        )
    problems = [
        problem_of(
            row, data.prompt_column, data.answer_column, f"{data.name}, {split}, row {number}"
        )
        for number, row in enumerate(rows)
    ]
    if not problems:
        raise UserError(path, f"there is no problem in '{split}' of {data.name}", "Name another.")
    return problems


def _load(data: HubData, split: str, path: str) -> Any:
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(
            "spec.task.data.type",
            f"datasets, but that library is not there ({error})",
            "Install `vaco[llm]`, or write the problems into a JSONL file.",
        ) from error
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(data.name, data.configuration, split=split)
    except Exception as error:
        kind, told = type(error).__name__, first_line(str(error))
        if f'"{split}"' in told or "Unknown split" in told:
            raise UserError(
                path, f"'{split}' of {data.name}: {told}", "Name one of these."
            ) from error
        if "Config name is missing" in told or "BuilderConfig" in told:
            raise UserError(
                "spec.task.data.configuration", f"{data.name}: {told}", "Name one of these."
            ) from error
        raise UserError(
            "spec.task.data.name",
            f"{data.name} cannot be loaded: {kind}: {told}",
            "Check the name and the network; or download it beforehand and give the path of its "
            "directory.",
        ) from error
