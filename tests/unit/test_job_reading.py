"""Reading a manifest: bounded, one document, scalars as kubectl reads them."""

import time
from pathlib import Path
from typing import Any

import pytest
from vaco.errors import UserError
from vaco.job import JobError, load_job
from vaco.schema.manifest import MAX_BYTES, Document, read_text

GOOD = """\
apiVersion: training.vaco.dev/v1alpha1
kind: VACOJob
metadata: {name: cartpole}
spec:
  task: {environment: CartPole-v1}
  stop: {envSteps: 1e6}
"""


def read(text: str) -> Document:
    return read_text(text, "here")


def refused(text: str) -> str:
    started = time.process_time()
    with pytest.raises(JobError) as caught:
        read(text)
    assert time.process_time() - started < 5
    return str(caught.value.problems[0])


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-5", 1e-5),
        ("1e6", 1_000_000),
        ("1.5E3", 1500),
        (".5", 0.5),
        ("2.0", 2.0),
        ("250_000", 250_000),
        ("-7", -7),
        ("0x1F", 31),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("", None),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        ("'1e6'", "1e6"),
        ("!!str 12", "12"),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_scalars_are_what_kubectl_makes_of_them(written: str, value: object) -> None:
    got = read(f"[{written}]").value[0] if written else read("a:").value["a"]
    assert got == value
    assert type(got) is type(value)


def test_merged_fields_give_way_to_own_ones() -> None:
    text = "base: &base {a: 1, b: 2}\nx: {<<: *base, b: 3}\ny: {b: 4, <<: [*base, {c: 5}]}\n"
    document = read(text)
    assert document.problems == []
    assert document.value["x"] == {"a": 1, "b": 3}
    assert document.value["y"] == {"a": 1, "b": 4, "c": 5}


def test_an_alias_is_a_copy() -> None:
    value = read("a: &a {b: [1]}\nc: *a\n").value
    value["c"]["b"].append(2)
    assert value["a"] == {"b": [1]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "`a` (line 3): given twice, it is already in line 1. Keep one."),
        ("a: {b: 1, b: 1}\n", "`a.b` (line 1): given twice, "),
        ("1: a\n", "`document` (line 1): a key that is not text. "),
        ("a: {[1]: 2}\n", "`a` (line 1): a key that is not text. "),
        ("a: !!python/object:os.system x\n", "`a` (line 1): the tag !!python/object:os.system has"),
        ("a: !!python/object/apply:os.system [x]\n", "`a` (line 1): the tag !!python/object/apply"),
        ("a: !mine {b: 1}\n", "`a` (line 1): the tag !mine has no meaning here. Leave it out."),
        ("a: !!binary aGk=\n", "`a` (line 1): the tag !!binary has no meaning here. "),
        ("a: !!int x\n", "`a` (line 1): the tag !!int has no meaning here. "),
        ("a: !!bool maybe\n", "`a` (line 1): the tag !!bool has no meaning here. "),
        ("a: {<<: 3}\n", "`a` (line 1): `<<` of what is no mapping. "),
        ("a: [1, .nan]\n", "`a[1]` (line 1): .nan is no finite number. "),
        ("a: 1e999\n", "`a` (line 1): 1e999 is no finite number. "),
    ],
)
def test_what_no_json_can_say_is_told(text: str, told: str) -> None:
    (problem,) = read(text).problems
    assert str(problem).startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1, 2\n", "`document` (line 2): while parsing a flow sequence, expected "),
        ("a:\n\t- b\n", "`document` (line 2): while scanning for the next token, "),
        ("a: *b\n", "`document` (line 1): found undefined alias 'b'."),
        ("a: \x07\n", "`document`: unacceptable character"),
        ("a: 1\n---\nb: 2\n", "`document` (line 2): expected a single document in the stream, "),
        ("a: &x [*x]\n", "`document` (line 1): an alias of a value that contains it."),
        ("a: " + "[" * 100_000, "`document` (line 1): nested more than 40 deep."),
        ("[" + "1," * 20_000 + "]", "`document` (line 1): more than 20000 values."),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(text: str, told: str) -> None:
    assert refused(text).startswith(told)


def test_aliases_of_aliases_cannot_blow_up() -> None:
    levels = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    assert "more than 20000 values" in refused("\n".join(levels))


def test_aliases_cannot_nest_deeper_than_what_is_written() -> None:
    levels = ["a0: &a0 [1]"] + [f"a{n}: &a{n} [[[[*a{n - 1}]]]]" for n in range(1, 30)]
    assert "nested more than 40 deep" in str(read("\n".join(levels)).problems[0])


def test_the_size_of_a_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD + "#" * (MAX_BYTES - len(GOOD)))
    assert load_job(path).spec.stop.env_steps == 1_000_000
    path.write_text(GOOD + "#" * (MAX_BYTES - len(GOOD) + 1))
    with pytest.raises(UserError, match=r"job.yaml`: larger than 262144 bytes"):
        load_job(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "`document`: empty. A manifest begins with `apiVersion"),
        (b"# nothing\n", "`document`: empty. "),
        (b"- a\n", '`document`: ["a"] is no mapping. '),
        (b"just words\n", '`document`: "just words" is no mapping. '),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert str(caught.value.problems[0]).startswith(told)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.yaml`: No such file"):
        load_job(tmp_path / "gone.yaml")
    with pytest.raises(UserError, match="Is a directory"):
        load_job(tmp_path)
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no UTF-8 at byte 0"):
        load_job(tmp_path / "job.yaml")


def test_problems_are_found_beside_the_manifest(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.jsonl"

    def data_of(text: str) -> Any:
        path = tmp_path / "job.yaml"
        path.write_text(
            "apiVersion: training.vaco.dev/v1alpha1\nkind: VACOJob\n"
            "metadata: {name: words}\nspec:\n"
            "  task:\n    type: languageModel\n"
            f"    data: {text}\n"
            "  policy: {type: languageModel, tiny: {}}\n  algorithm: {name: vaco-lm}\n"
            "  stop: {envSteps: 8}\n"
        )
        return load_job(path).spec.language.task.data

    (tmp_path / "words.jsonl").write_text("")
    data = data_of(f"{{type: jsonl, file: words.jsonl, heldOutFile: {elsewhere}}}")
    assert (data.file, data.held_out_file) == (str(tmp_path / "words.jsonl"), str(elsewhere))
    with pytest.raises(
        JobError, match=r"`spec.task.data.file` \(line 7\): there is no file"
    ) as raised:
        data_of("{type: jsonl, file: gone.jsonl}")
    assert str(tmp_path) in str(raised.value)


def imports_of(path: Path, names: list[Any]) -> list[str]:
    path.write_text(GOOD.replace("CartPole-v1", f"CartPole-v1, imports: {names}"))
    return load_job(path).spec.task.imports


def test_a_python_file_is_found_beside_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    path = tmp_path / "job.yaml"
    found = imports_of(path, ["mine.py", "./mine.py", "ale_py", "/elsewhere/other.py"])
    mine = str(tmp_path / "mine.py")
    assert found == [mine, mine, "ale_py", "/elsewhere/other.py"]
    with pytest.raises(JobError, match=r"`spec.task.imports\[1\]` \(line 5\): there is no file"):
        imports_of(path, ["mine.py", "gone.py"])
    with pytest.raises(JobError, match=r"imports\[0\]` \(line 5\): \"a b\" is not spelled as it"):
        imports_of(path, ["a b"])
