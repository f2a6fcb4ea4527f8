"""Problems in files with one JSON object a line."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from vaco.errors import UserError, did_you_mean
from vaco.job import JsonlData

from vaco_policy.language.problem import MAX_PROBLEMS, MAX_TEXT_BYTES, Problem


def read(data: JsonlData) -> tuple[list[Problem], list[Problem]]:
    """Return the problems to train on and those held out.

    Raises:
        UserError: naming the file and the line.

    """
    problems = _read(data.file, "spec.task.data.file", data)
    if data.held_out_file is not None:
        return problems, _read(data.held_out_file, "spec.task.data.heldOutFile", data)
    return _split(problems, data)


def _split(problems: list[Problem], data: JsonlData) -> tuple[list[Problem], list[Problem]]:
    """Hold out a share of the different prompts: those whose digests are smallest.

    A prompt that is there twice is on one side with all its answers.
    """
    prompts = sorted({problem.prompt for problem in problems}, key=_digest)
    if len(prompts) < 2:
        raise UserError(
            "spec.task.data.file",
            f"{data.file} has one problem, and `heldOutShare` needs another to hold out",
            "Add problems, or give `heldOutFile`.",
        )
    count = min(max(round(data.held_out_share * len(prompts)), 1), len(prompts) - 1)
    held_out = set(prompts[:count])
    return (
        [problem for problem in problems if problem.prompt not in held_out],
        [problem for problem in problems if problem.prompt in held_out],
    )


def _digest(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.encode(), digest_size=16, person=b"vaco.held.out").digest()


def _read(file: str, path: str, data: JsonlData) -> list[Problem]:
    problems = []
    try:
        for number, line in _lines(Path(file), path):
            problems.append(_problem(line, f"{file}, line {number}", path, data))
            if len(problems) > MAX_PROBLEMS:
                raise UserError(path, f"{file} has over {MAX_PROBLEMS} problems", "Split it.")
    except OSError as error:
        problem = f"{file} cannot be read: {error.strerror}"
        raise UserError(
            path, problem, "Mend the path; it must be there for every actor."
        ) from error
    if not problems:
        raise UserError(path, f"there is no problem in {file}", "Give one JSON object a line.")
    return problems


def _lines(file: Path, path: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    with file.open("rb") as opened:
        number = 0
        while line := opened.readline(MAX_TEXT_BYTES + 1):
            number += 1
            if len(line) > MAX_TEXT_BYTES:
                raise UserError(
                    path, f"{file}, line {number}: over {MAX_TEXT_BYTES} bytes", "Split it."
                )
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise UserError(
                    path, f"{file}, line {number}: not UTF-8 ({error.reason})", "Save it as UTF-8."
                ) from error
            if text:
                yield number, text


def _problem(line: str, where: str, path: str, data: JsonlData) -> Problem:
    try:
        # Numbers stay as they are written: 0.10 is not a binary fraction.
        row = json.loads(line, parse_float=str, parse_int=str, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UserError(path, f"{where}: not JSON ({error})", "Mend that line.") from error
    if not isinstance(row, dict):
        raise UserError(
            path, f"{where}: not a JSON object", 'Write {"prompt": ..., "answer": ...}.'
        )
    return problem_of(row, data.prompt_column, data.answer_column, where)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def problem_of(
    row: Mapping[str, Any], prompt_column: str, answer_column: str, where: str
) -> Problem:
    """Return the problem in a row of data.

    Args:
        row: By column.
        prompt_column: `data.promptColumn`.
        answer_column: `data.answerColumn`.
        where: The row, for errors.

    Raises:
        UserError: A column is missing, or what it has is no text or too long.

    """
    prompt = _text(row, prompt_column, "spec.task.data.promptColumn", where)
    answer = _text(row, answer_column, "spec.task.data.answerColumn", where)
    return Problem(prompt, answer)


def _text(row: Mapping[str, Any], column: str, path: str, where: str) -> str:
    if column not in row:
        names = sorted(str(name)[:100] for name in row)[:20]
        raise UserError(
            path,
            f"{where}: there is no column '{column}'; there are {', '.join(names) or 'none'}",
            did_you_mean(column, names) + "Name the one that has it.",
        )
    value = row[column]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        problem = f"{where}: '{column}' is {str(value)[:60]!r}, and must be text or a number"
        raise UserError(path, problem, "Mend it, or leave that problem out.")
    if len(value) > MAX_TEXT_BYTES or len(value.encode(errors="replace")) > MAX_TEXT_BYTES:
        problem = f"{where}: '{column}' has over {MAX_TEXT_BYTES} bytes"
        raise UserError(path, problem, "Shorten it, or leave that problem out.")
    return value
