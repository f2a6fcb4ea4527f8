import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from vaco.checkpoints import Manifest
from vaco.errors import EXIT_OK, EXIT_PERMANENT, UserError
from vaco.job import ActorCriticPolicy
from vaco_policy.export import main
from vaco_policy.parameters import to_payload
from vaco_policy.policy import Policy
from vaco_policy.spaces import Box, Discrete, Spaces
from vaco_policy.stored import read_checkpoint, read_export

JOB = "job-uid"
SPACES = Spaces({"observation": Box((4,), low=(-1.0, -2.0, -3.0, -4.0))}, Discrete(3))
SPEC = {"network": {"type": "mlp", "hiddenSizes": [8]}, "normaliseObservations": True}


def a_policy() -> Policy:
    policy = Policy(ActorCriticPolicy.model_validate(SPEC), SPACES, seed=5)
    policy.update_observation_statistics({"observation": torch.arange(40.0).reshape(10, 4)})
    return policy


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    document = {
        "apiVersion": "training.vaco.dev/v1alpha1",
        "kind": "VACOJob",
        "metadata": {"name": "balance"},
        "spec": {
            "task": {"type": "gymnasium", "environment": "CartPole-v1"},
            "policy": SPEC,
            "stop": {"envSteps": 1000},
        },
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The files of a learner's checkpoint that a reader of its policy looks at."""
    directory = tmp_path / "v000000007"
    directory.mkdir()
    state = {"version": 7, "contract": SPACES.to_json(), "trainer": {}}
    contents = {
        "policy.safetensors": to_payload(a_policy()),
        "state.json": json.dumps(state).encode(),
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    (directory / "MANIFEST.json").write_bytes(Manifest.of(JOB, 1, 7, contents).to_bytes())
    return directory


def acts_like_the_original(policy: Policy) -> bool:
    seen = {"observation": torch.linspace(-5, 60, 80).reshape(20, 4)}
    with torch.inference_mode():
        ours = a_policy().act(seen, {}, None, deterministic=True)
        theirs = policy.act(seen, {}, None, deterministic=True)
    return torch.equal(ours.action, theirs.action) and torch.equal(ours.logp, theirs.logp)


def test_what_is_exported_stands_alone(job: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "deep"
    arguments = ["--job", str(job), "--checkpoint", str(checkpoint), "--out", str(out)]
    told = subprocess.run(
        [sys.executable, "-m", "vaco_policy.export", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert told.returncode == EXIT_OK, told.stderr
    assert told.stdout.split() == [str(out / "policy.safetensors"), str(out / "policy.json")]

    exported = read_export(out)
    assert exported.version == 7
    assert exported.spaces == SPACES
    assert acts_like_the_original(exported.build())
    description = json.loads((out / "policy.json").read_text())
    assert description["policy"]["network"]["hiddenSizes"] == [8]
    assert description["spaces"]["action"] == {"type": "discrete", "n": 3}


def test_a_checkpoint_gives_its_policy(checkpoint: Path) -> None:
    stored = read_checkpoint(checkpoint, ActorCriticPolicy.model_validate(SPEC), JOB)
    assert stored.version == 7
    assert acts_like_the_original(stored.build())


@pytest.mark.parametrize("name", ["policy.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused_by_file(checkpoint: Path, name: str) -> None:
    content = bytearray((checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / name).write_bytes(content)
    with pytest.raises(UserError, match="digest") as refusal:
        read_checkpoint(checkpoint, ActorCriticPolicy.model_validate(SPEC), JOB)
    assert refusal.value.path == str(checkpoint / name)


@pytest.mark.parametrize("name", ["policy.safetensors", "state.json", "MANIFEST.json"])
def test_a_checkpoint_that_lacks_a_file_is_refused(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(UserError, match="cannot be read") as refusal:
        read_checkpoint(checkpoint, ActorCriticPolicy.model_validate(SPEC), JOB)
    assert refusal.value.path == str(checkpoint / name)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"manifest": 3}', "\udce9"])
def test_a_manifest_that_is_none_is_refused(checkpoint: Path, text: str) -> None:
    (checkpoint / "MANIFEST.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"MANIFEST\.json"):
        read_checkpoint(checkpoint, ActorCriticPolicy.model_validate(SPEC), JOB)


def test_a_flipped_bit_in_the_manifest_is_found_by_its_own_digest(checkpoint: Path) -> None:
    path = checkpoint / "MANIFEST.json"
    path.write_text(path.read_text().replace('"version": 7', '"version": 6'))
    with pytest.raises(UserError, match="own digest"):
        read_checkpoint(checkpoint, ActorCriticPolicy.model_validate(SPEC), JOB)


def test_a_checkpoint_of_another_job_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="of job 'job-uid', this is 'another'"):
        read_checkpoint(checkpoint, ActorCriticPolicy.model_validate(SPEC), "another")
    assert read_checkpoint(checkpoint, ActorCriticPolicy.model_validate(SPEC), None).version == 7


def test_weights_of_another_shape_are_refused(checkpoint: Path) -> None:
    stored = read_checkpoint(checkpoint, ActorCriticPolicy(), JOB)
    with pytest.raises(UserError, match="weights"):
        stored.build()


def test_the_command_says_what_is_wrong_and_that_again_would_not_help(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "v000000001"
    arguments = ["--job", str(job), "--checkpoint", str(missing), "--out", str(tmp_path / "out")]
    assert main(arguments) == EXIT_PERMANENT
    assert str(missing) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_export_that_was_altered_is_refused(job: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["--job", str(job), "--checkpoint", str(checkpoint), "--out", str(out)])
    weights = out / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="digest"):
        read_export(out)
    (out / "policy.json").write_text(json.dumps({"format": "another"}))
    with pytest.raises(UserError, match="format"):
        read_export(out)
