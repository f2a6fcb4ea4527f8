"""What one does with a language model's checkpoint: `vaco evaluate` and `vaco export`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from vaco.checkpoints import Manifest
from vaco.errors import EXIT_FAILURE, EXIT_OK, EXIT_PERMANENT, UserError
from vaco.job import VACOJob, load_job
from vaco_actor.__main__ import main as actor
from vaco_actor.evaluate_command import EvaluateOptions, evaluate
from vaco_actor.language.held_out import chosen
from vaco_learner.language.trainer import LanguageTrainer
from vaco_policy.export import main as export
from vaco_policy.language.problems import encode_prompts, load_problems
from vaco_policy.language.stored import read_model
from vaco_policy.parameters import to_payload

HELD_OUT = 12
REWARD = """
def by_problem(problem, completion, answer):
    return 1.0 if int(problem[0]) % 2 else 0.25
"""
CPU = torch.device("cpu")

MakeRun = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of the reward: one for all tests, as a module of a name is imported once."""
    path = tmp_path_factory.mktemp("rewards") / "rewards_of_test.py"
    path.write_text(REWARD)
    return str(path)


@pytest.fixture
def run(tmp_path: Path, rewards: str, language_job: Callable[..., VACOJob]) -> MakeRun:
    """Makes a job's manifest and a checkpoint as its learner writes it, of moved weights."""

    def make(policy: dict[str, Any] | None = None, **spec: Any) -> tuple[Path, Path]:
        parts: dict[str, Any] = {
            "task": {
                "type": "languageModel",
                "data": {"digits": 1, "problems": 40, "heldOut": HELD_OUT},
                "reward": {"type": "python", "function": "rewards_of_test.by_problem"},
                "imports": [rewards],
                "maxCompletionTokens": 4,
                "maxPromptTokens": 8,
            },
            **spec,
        }
        decoder = {"layers": 2, "hiddenSize": 16, "heads": 2}
        parts["policy"] = {"type": "languageModel", "tiny": decoder, **(policy or {})}
        job = language_job(**parts)
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(job.model_dump(mode="json", by_alias=True)))
        trainer = LanguageTrainer(load_job(path), CPU)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(3)
            for tensor in trainer.published.state_dict().values():
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
        checkpoint = tmp_path / "v000000007"
        checkpoint.mkdir()
        state = {"version": 7, "contract": trainer.contract, "trainer": {}}
        contents = {
            "policy.safetensors": to_payload(trainer.published),
            "state.json": json.dumps(state).encode(),
        }
        for name, content in contents.items():
            (checkpoint / name).write_bytes(content)
        (checkpoint / "MANIFEST.json").write_bytes(Manifest.of("uid", 1, 7, contents).to_bytes())
        return path, checkpoint

    return make


def figures(
    capsys: pytest.CaptureFixture[str], job: Path, checkpoint: Path, *options: str
) -> dict[str, Any]:
    command = ["evaluate", "--job", str(job), "--checkpoint", str(checkpoint), "--json", *options]
    assert actor(command) == EXIT_OK
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_held_out_problems_are_answered_and_judged(
    run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    job, checkpoint = run()
    told = figures(capsys, job, checkpoint)
    task = load_job(job).spec.language.task
    rights = [int(problem.prompt[0]) % 2 for problem in load_problems(task, "heldOut")]
    assert told["model"] == "tiny"
    assert (told["version"], told["episodes"]) == (7, HELD_OUT)
    assert told["accuracy"] == sum(rights) / HELD_OUT
    assert sorted(told["returns"]) == sorted(1.0 if right else 0.25 for right in rights)
    assert all(1 <= length <= 4 for length in told["lengths"])
    assert figures(capsys, job, checkpoint) == told, "there is no chance in it"


def test_it_asks_what_the_learner_asks(run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    """The same problems as an actor's evaluation, so that the status says the same."""
    job, checkpoint = run(evaluation={"intervalEnvSteps": 100, "episodes": 5, "seed": 3})
    told = figures(capsys, job, checkpoint)
    parts = load_job(job).spec.language
    model, _ = read_model(checkpoint, load_job(job))
    asked = encode_prompts(load_problems(parts.task, "heldOut"), parts.task, model)
    rights = [int(each.problem.prompt[0]) % 2 for each in chosen(asked, 5, 3)]
    assert told["returns"] == [1.0 if right else 0.25 for right in rights]
    assert figures(capsys, job, checkpoint, "--episodes", "8")["episodes"] == 8
    assert figures(capsys, job, checkpoint, "--episodes", "99")["episodes"] == HELD_OUT


def test_the_figures_are_told_to_people(run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    job, checkpoint = run()
    assert actor(["evaluate", "--job", str(job), "--checkpoint", str(checkpoint)]) == EXIT_OK
    told = capsys.readouterr().out
    assert f"tiny, version 7: {HELD_OUT} held-out problems\naccuracy  " in told


def test_a_language_model_cannot_be_filmed(
    run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job, checkpoint = run()
    film = ["--video", str(tmp_path / "film.mp4")]
    command = ["evaluate", "--job", str(job), "--checkpoint", str(checkpoint), *film]
    assert actor(command) == EXIT_PERMANENT
    assert "`--video`: a language model has nothing to film" in capsys.readouterr().err


def test_it_can_be_stopped(run: MakeRun) -> None:
    job, checkpoint = run()
    stop = threading.Event()
    stop.set()
    assert evaluate(EvaluateOptions(job, checkpoint, None, None, False), stop) == EXIT_FAILURE


def test_a_checkpoint_of_another_model_is_refused(run: MakeRun) -> None:
    job, checkpoint = run()
    document = yaml.safe_load(job.read_text())
    document["spec"]["policy"]["tiny"]["hiddenSize"] = 32
    job.write_text(yaml.safe_dump(document))
    with pytest.raises(UserError, match="of another model than tiny is now") as refusal:
        read_model(checkpoint, load_job(job))
    assert refusal.value.path == str(checkpoint)


def exported_logits(directory: Path, tokens: torch.Tensor) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(directory)
    with torch.inference_mode():
        logits: torch.Tensor = network.eval()(input_ids=tokens).logits
    return logits


def test_what_is_exported_computes_the_same(
    run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    job, checkpoint = run()
    out = tmp_path / "out" / "deep"
    arguments = ["--job", str(job), "--checkpoint", str(checkpoint), "--out", str(out)]
    assert export(arguments) == EXIT_OK
    told = {Path(line).name for line in capsys.readouterr().out.split()}
    assert told >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

    model, _ = read_model(checkpoint, load_job(job))
    tokenizer: Any = AutoTokenizer.from_pretrained(out)
    tokens = tokenizer("37+5=", return_tensors="pt").input_ids
    assert tokens.tolist() == [model.tokenizer.encode("37+5=")]
    with torch.inference_mode():
        ours = model.network(input_ids=tokens).logits
    assert torch.equal(exported_logits(out, tokens), ours)
    settings = GenerationConfig.from_pretrained(out)
    assert settings.eos_token_id == list(model.end_tokens)
    assert settings.max_new_tokens == load_job(job).spec.language.task.max_completion_tokens
    assert tokenizer.padding_side == "left"
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_adapters_are_merged_into_what_is_exported(run: MakeRun, tmp_path: Path) -> None:
    job, checkpoint = run(policy={"lora": {"rank": 2}})
    model, _ = read_model(checkpoint, load_job(job))
    tokens = torch.tensor([model.tokenizer.encode("37+5=")])
    with torch.inference_mode():
        ours = model.network(input_ids=tokens).logits
        with model.network.disable_adapter():  # type: ignore[operator]
            bare = model.network(input_ids=tokens).logits
    out = tmp_path / "out"
    arguments = ["--job", str(job), "--checkpoint", str(checkpoint), "--out", str(out)]
    assert export(arguments) == EXIT_OK
    assert not (out / "adapter_config.json").exists()
    theirs = exported_logits(out, tokens)
    assert torch.allclose(theirs, ours, atol=1e-5)
    assert not torch.allclose(theirs, bare, atol=1e-3)


def test_onnx_is_refused(run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job, checkpoint = run()
    out = tmp_path / "out"
    arguments = ["--job", str(job), "--checkpoint", str(checkpoint), "--out", str(out), "--onnx"]
    assert export(arguments) == EXIT_PERMANENT
    assert "`--onnx`: language models are not written as ONNX" in capsys.readouterr().err
    assert not out.exists()
