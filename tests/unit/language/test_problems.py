"""Problems of every kind of data, and the prompts they become."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vaco.errors import UserError
from vaco.job import LanguageModelTask, VACOJob
from vaco_policy.language import hub_data
from vaco_policy.language.jsonl import problem_of
from vaco_policy.language.model import LanguageModel, build
from vaco_policy.language.problems import (
    Problem,
    encode_answer,
    encode_prompts,
    load_problems,
)

MakeJob = Callable[..., VACOJob]


def task(data: dict[str, Any], **more: Any) -> LanguageModelTask:
    return LanguageModelTask.model_validate({"type": "languageModel", "data": data, **more})


def both(data: dict[str, Any]) -> tuple[list[Problem], list[Problem]]:
    return load_problems(task(data), "train"), load_problems(task(data), "heldOut")


@pytest.fixture(scope="module")
def model(language_job: MakeJob) -> LanguageModel:
    return build(language_job().spec.language, 0, pretrained=False)


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """Writes a file of lines; those that are no text become JSON."""

    def write(*lines: Any, name: str = "problems.jsonl") -> str:
        told = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / name).write_text("\n".join(told) + "\n")
        return str(tmp_path / name)

    return write


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"{n}+1=", "answer": n + 1} for n in range(start, start + count)]


@pytest.mark.parametrize(
    "data",
    [
        {"digits": 1, "problems": 70, "heldOut": 30},
        {"digits": 2, "terms": 3, "operators": ["+", "-", "*"], "problems": 500, "heldOut": 50},
        {"digits": 9, "terms": 8, "operators": ["*", "-"], "problems": 50, "heldOut": 5},
    ],
)
def test_arithmetic_is_right_and_all_different(data: dict[str, Any]) -> None:
    train, held_out = both({"type": "arithmetic", **data})
    assert (len(train), len(held_out)) == (data["problems"], data["heldOut"])
    problems = train + held_out
    assert len({problem.prompt for problem in problems}) == len(problems)
    for problem in problems:
        assert problem.prompt.endswith("=")
        assert int(problem.answer) == eval(problem.prompt[:-1])  # noqa: S307 - our own sums


def test_arithmetic_is_its_seeds_and_held_out_stays() -> None:
    def data(**changed: int) -> dict[str, Any]:
        return {"type": "arithmetic", "problems": 100, "heldOut": 20, **changed}

    assert both(data()) == both(data())
    assert both(data(seed=1)) != both(data())
    assert both(data(problems=300))[1] == both(data())[1]


def test_more_arithmetic_than_there_is_is_refused() -> None:
    with pytest.raises(UserError, match="2 numbers of 1 digits make 100 different") as raised:
        both({"type": "arithmetic", "digits": 1, "problems": 90, "heldOut": 11})
    assert raised.value.path == "spec.task.data.problems"


def test_a_file_is_split_by_prompt(file: Callable[..., str]) -> None:
    lines = [*rows(50), {"prompt": "7+1=", "answer": "eight"}, ""]
    data = {"type": "jsonl", "file": file(*lines), "heldOutShare": 0.3}
    train, held_out = both(data)
    assert len({problem.prompt for problem in held_out}) == 15
    assert not {p.prompt for p in train} & {p.prompt for p in held_out}
    assert len(train) + len(held_out) == 51
    assert Problem("7+1=", "eight") in train + held_out
    assert both(data) == (train, held_out)


def test_a_small_file_still_has_something_on_either_side(file: Callable[..., str]) -> None:
    for share in (0.01, 0.99):
        train, held_out = both({"type": "jsonl", "file": file(*rows(2)), "heldOutShare": share})
        assert (len(train), len(held_out)) == (1, 1)
    with pytest.raises(UserError, match="has one problem"):
        both({"type": "jsonl", "file": file(*rows(1))})


def test_numbers_stay_as_they_are_written(file: Callable[..., str]) -> None:
    lines = ['{"q": 1, "a": 0.10}', '{"q": "x", "a": 123456789012345678901234567890}']
    data = {"type": "jsonl", "promptColumn": "q", "answerColumn": "a", "file": file(*lines)}
    train, held_out = both(data)
    answers = {problem.prompt: problem.answer for problem in train + held_out}
    assert answers == {"1": "0.10", "x": "123456789012345678901234567890"}


def test_what_is_held_out_is_not_trained_on(
    file: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    held_out_file = file(*rows(4, start=8), name="held_out.jsonl")
    data = {"type": "jsonl", "file": file(*rows(10)), "heldOutFile": held_out_file}
    with caplog.at_level(logging.WARNING):
        train, held_out = both(data)
    assert len(held_out) == 4
    assert [problem.answer for problem in train] == [str(n + 1) for n in range(8)]
    assert "2 problems to train on are held out" in caplog.text
    data = {"type": "jsonl", "file": held_out_file, "heldOutFile": held_out_file}
    with pytest.raises(UserError, match="all problems to train on are held out"):
        both(data)


@pytest.mark.parametrize(
    ("line", "path", "told"),
    [
        ("{", "file", "line 2: not JSON"),
        ("[" * 100_000, "file", "line 2: not JSON"),
        ("[1]", "file", "line 2: not a JSON object"),
        ('{"prompt": "a", "answer": NaN}', "file", "line 2: not JSON (NaN is no number)"),
        (
            '{"prompt": "a"}',
            "answerColumn",
            "line 2: there is no column 'answer'; there are prompt",
        ),
        ('{"prompt": "a", "anwser": 1}', "answerColumn", "there are anwser, prompt"),
        ('{"prompt": "a", "answer": null}', "answerColumn", "line 2: 'answer' is 'None'"),
        ('{"prompt": "a", "answer": true}', "answerColumn", "line 2: 'answer' is 'True'"),
        ('{"prompt": " ", "answer": 1}', "promptColumn", "line 2: 'prompt' is ' '"),
        ('{"prompt": "' + "a" * (1 << 20) + '"}', "file", "line 2: over 1048576 bytes"),
    ],
)
def test_a_bad_line_is_told_with_its_number(
    file: Callable[..., str], line: str, path: str, told: str
) -> None:
    with pytest.raises(UserError) as raised:
        both({"type": "jsonl", "file": file(*rows(1), line)})
    assert raised.value.path == f"spec.task.data.{path}"
    assert told in raised.value.problem
    assert raised.value.cure


def test_a_near_miss_of_a_column_is_guessed(file: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="Did you mean `anwser`"):
        both({"type": "jsonl", "file": file({"prompt": "a", "anwser": 1})})


def test_a_file_that_is_not_there_or_empty_or_no_text_is_refused(
    file: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        both({"type": "jsonl", "file": str(tmp_path / "nowhere.jsonl")})
    with pytest.raises(UserError, match="there is no problem in"):
        both({"type": "jsonl", "file": file("", " ")})
    (tmp_path / "latin").write_bytes(b'{"prompt": "a", "answer": 1}\n\xff\n')
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        both({"type": "jsonl", "file": str(tmp_path / "latin")})
    told = file(*rows(2), name="told.jsonl")
    with pytest.raises(UserError, match="cannot be read") as raised:
        both({"type": "jsonl", "file": told, "heldOutFile": str(tmp_path / "nowhere.jsonl")})
    assert raised.value.path == "spec.task.data.heldOutFile"


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A directory that the library reads."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    directory = tmp_path / "sums"
    directory.mkdir()
    for split, count in (("train", 6), ("test", 3)):
        lines = [
            {"question": f"{split} {n}", "answer": n, "note": {"by": "us"}} for n in range(count)
        ]
        (directory / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {"type": "datasets", "name": str(directory)}


def test_a_data_set_of_the_library(data_set: dict[str, Any]) -> None:
    train, held_out = both(data_set)
    assert train == [Problem(f"train {n}", str(n)) for n in range(6)]
    assert [problem.prompt for problem in held_out] == ["test 0", "test 1", "test 2"]


@pytest.mark.parametrize(
    ("changed", "path", "told"),
    [
        ({"answerColumn": "solution"}, "answerColumn", "there are answer, note, question"),
        ({"answerColumn": "note"}, "answerColumn", "must be text or a number"),
        ({"split": "valid"}, "split", "'valid' of"),
        ({"heldOutSplit": "valid"}, "heldOutSplit", "'valid' of"),
        ({"name": "/nowhere"}, "name", "/nowhere cannot be loaded"),
        ({"configuration": "other"}, "configuration", "BuilderConfig 'other' not found"),
    ],
)
def test_a_data_set_without_what_is_asked_for(
    data_set: dict[str, Any], changed: dict[str, str], path: str, told: str
) -> None:
    with pytest.raises(UserError) as raised:
        both({**data_set, **changed})
    assert raised.value.path == f"spec.task.data.{path}"
    assert told in raised.value.problem
    assert raised.value.cure


def test_a_data_set_that_is_too_large_is_refused(
    data_set: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_data, "MAX_PROBLEMS", 5)
    with pytest.raises(UserError, match=r"has 6 problems, over 5.*`train\[:5\]`") as raised:
        both(data_set)
    assert raised.value.path == "spec.task.data.split"
    train, held_out = both({**data_set, "split": "train[:5]"})
    assert (len(train), len(held_out)) == (5, 3)


@pytest.mark.parametrize("column", ["prompt", "answer"])
@pytest.mark.parametrize("text", ["a" * ((1 << 20) + 1), "\u20ac" * (1 << 19)])
def test_a_text_that_is_too_long_is_refused_wherever_it_is_from(column: str, text: str) -> None:
    row = {"prompt": "a", "answer": "b"}
    assert problem_of(row | {column: text[: 1 << 18]}, "prompt", "answer", "row 3")
    with pytest.raises(UserError, match=f"row 3: '{column}' has over 1048576 bytes") as raised:
        problem_of(row | {column: text}, "prompt", "answer", "row 3")
    assert raised.value.path == f"spec.task.data.{column}Column"


def test_without_the_library_its_data_sets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"Install `vaco\[llm\]`"):
        both({"type": "datasets", "name": "openai/gsm8k"})


def test_a_prompt_is_its_template_in_tokens(model: LanguageModel) -> None:
    told = task({"type": "arithmetic"}, promptTemplate="Q: {prompt}\nA:")
    encoded = encode_prompts([Problem("1+1=", "2")], told, model)
    assert encoded[0].number == 0
    assert model.tokenizer.decode(encoded[0].prompt) == "<bos>Q: 1+1=\nA:"
    assert encode_answer(Problem("1+1=", "2"), model) == [
        model.tokenizer.convert_tokens_to_ids("2"),
        model.tokenizer.eos_token_id,
    ]


def test_chat_goes_through_the_tokenizers_template(language_job: MakeJob) -> None:
    model = build(language_job().spec.language, 0, pretrained=False)
    told = task({"type": "arithmetic"}, chat=True, systemPrompt="Be brief.")
    with pytest.raises(UserError, match="has no chat template") as raised:
        encode_prompts([Problem("1+1=", "2")], told, model)
    assert raised.value.path == "spec.task.chat"
    model.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    prompt = encode_prompts([Problem("1+1=", "2")], told, model)[0].prompt
    assert model.tokenizer.decode(prompt) == "[system] Be brief.\n[user] 1+1=\n[assistant] "
    model.tokenizer.chat_template = "{{ raise_exception('no system message') }}"
    with pytest.raises(UserError, match=r"the chat template of tiny fails: .*no system message"):
        encode_prompts([Problem("1+1=", "2")], told, model)


LONG = [Problem("1=", "1"), Problem("1+1+1+1=", "4"), Problem("2=", "2")]


def test_long_prompts_are_left_out_and_counted(
    model: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        encoded = encode_prompts(LONG, task({"type": "arithmetic"}, maxPromptTokens=3), model)
    assert [each.number for each in encoded] == [0, 2]
    assert "1 of 3 problems are left out: their prompts have more than 3 tokens" in caplog.text


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"maxPromptTokens": 3, "longPrompts": "refuse"}, "the prompt of problem 1 ('1+1+1+1=')"),
        ({"maxPromptTokens": 2}, "all 3 prompts are longer: up to 9 tokens"),
    ],
)
def test_long_prompts_are_refused(model: LanguageModel, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as raised:
        encode_prompts(LONG, task({"type": "arithmetic"}, **changed), model)
    assert raised.value.path == "spec.task.maxPromptTokens"
    assert told in raised.value.problem


def test_characters_that_a_tiny_decoder_does_not_know_are_refused(model: LanguageModel) -> None:
    with pytest.raises(UserError, match="does not know all characters of '1€'"):
        encode_prompts([Problem("1€", "1")], task({"type": "arithmetic"}), model)
    with pytest.raises(UserError, match="does not know all characters of '½'"):
        encode_answer(Problem("1/2", "½"), model)


def test_a_token_that_begins_a_text_and_stands_for_the_unknown_is_no_unknown_character(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with GPT-2's and OPT's tokenizers."""
    monkeypatch.setattr(model, "tokenizer", copy.deepcopy(model.tokenizer))
    model.tokenizer.unk_token = model.tokenizer.bos_token
    (encoded,) = encode_prompts([Problem("1+1=", "2")], task({"type": "arithmetic"}), model)
    assert encoded.prompt[0] == model.tokenizer.unk_token_id
