"""Language models by description and by name: what is built, what is published, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from vaco.errors import UserError
from vaco.job import LanguageModelPolicy, VACOJob
from vaco_policy.language.characters import CHARACTERS, character_tokenizer
from vaco_policy.language.model import LanguageModel, build
from vaco_policy.language.pretrained import Pretrained
from vaco_policy.parameters import load_payload, to_payload

MakeJob = Callable[..., VACOJob]
TINY = {"layers": 2, "hiddenSize": 16, "heads": 2}


def built(job: MakeJob, seed: int = 0, *, pretrained: bool = True, **policy: Any) -> LanguageModel:
    spec = {"type": "languageModel", **(policy or {"tiny": TINY})}
    return build(job(policy=spec).spec.language, seed, pretrained=pretrained)


@pytest.fixture(scope="module")
def saved(language_job: MakeJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as `save_pretrained` makes it."""
    directory = tmp_path_factory.mktemp("model")
    model = built(language_job, seed=3)
    model.network.save_pretrained(directory)  # type: ignore[operator]
    model.tokenizer.save_pretrained(directory)
    return directory


def copy_of(saved: Path, directory: Path) -> Path:
    for file in saved.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


def edit(file: Path, **changed: Any) -> None:
    document = json.loads(file.read_text())
    document.update(changed)
    file.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


def test_characters_are_tokens() -> None:
    tokenizer = character_tokenizer()
    tokens = tokenizer.encode(CHARACTERS)
    assert len(tokens) == len(CHARACTERS) + 1
    assert tokens[0] == tokenizer.bos_token_id
    assert len(set(tokens)) == len(tokens)
    assert tokenizer.decode(tokens, skip_special_tokens=True) == CHARACTERS
    assert tokenizer.decode(tokenizer.encode("a  b ,c"), skip_special_tokens=True) == "a  b ,c"


def test_a_tiny_decoder_is_its_seeds(language_job: MakeJob) -> None:
    ours = to_payload(built(language_job, 1).published)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = built(language_job, 1, pretrained=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert to_payload(again.published) == ours
    other = built(language_job, 2)
    assert to_payload(other.published) != ours
    assert other.contract() == again.contract()


def test_a_tiny_decoder_has_room_for_prompt_and_completion(language_job: MakeJob) -> None:
    model = built(language_job)
    assert model.network.config.max_position_embeddings == 16  # type: ignore[union-attr]
    longest_BT = torch.zeros((1, 16), dtype=torch.long)
    assert model.network(input_ids=longest_BT).logits.shape == (1, 16, model.vocabulary)


def test_the_contract_tells_models_apart(language_job: MakeJob) -> None:
    wider = built(language_job, tiny={**TINY, "hiddenSize": 32})
    contract = json.loads(built(language_job).contract())["languageModel"]
    assert contract["vocabulary"] == len(character_tokenizer())
    assert wider.contract() != built(language_job).contract()


def test_a_saved_model_is_loaded_with_its_weights(language_job: MakeJob, saved: Path) -> None:
    model = built(language_job, model=str(saved))
    assert to_payload(model.published) == to_payload(built(language_job, seed=3).published)


def test_weights_are_float32_whatever_they_are_stored_as(
    language_job: MakeJob, saved: Path, tmp_path: Path
) -> None:
    file = copy_of(saved, tmp_path) / "model.safetensors"
    save_file({k: v.bfloat16() for k, v in load_file(file).items()}, file, {"format": "pt"})
    edit(tmp_path / "config.json", dtype="bfloat16")
    for pretrained in (False, True):
        model = built(language_job, model=str(tmp_path), pretrained=pretrained)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_an_actor_needs_the_architecture_only(
    language_job: MakeJob, saved: Path, tmp_path: Path
) -> None:
    learner = built(language_job, model=str(saved))
    directory = copy_of(saved, tmp_path)
    (directory / "model.safetensors").unlink()
    actor = built(language_job, pretrained=False, model=str(directory))
    load_payload(actor.published, to_payload(learner.published))
    tokens_BT = torch.tensor([[1, 5, 9, 20]])
    with torch.inference_mode():
        theirs, ours = learner.network(tokens_BT).logits, actor.network(tokens_BT).logits
    assert torch.equal(theirs, ours)


def test_tied_weights_are_published_once(
    language_job: MakeJob, saved: Path, tmp_path: Path
) -> None:
    directory = copy_of(saved, tmp_path)
    edit(directory / "config.json", tie_word_embeddings=True)
    file = directory / "model.safetensors"
    untied = load_file(file)
    save_file({k: v for k, v in untied.items() if k != "lm_head.weight"}, file, {"format": "pt"})
    model = built(language_job, model=str(directory))
    names = list(model.published.state_dict())
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    other = built(language_job, pretrained=False, model=str(directory))
    load_payload(other.published, to_payload(model.published))
    head = other.network.get_output_embeddings()  # type: ignore[operator]
    assert torch.equal(head.weight, next(model.parameters()))


def test_adapters_alone_are_trained_and_published(language_job: MakeJob) -> None:
    lora: dict[str, Any] = {"tiny": TINY, "lora": {"rank": 2}}
    learner, actor = (built(language_job, pretrained=each, **lora) for each in (True, False))
    assert learner.contract() == actor.contract()
    assert built(language_job, 1, **lora).contract() != actor.contract()
    state = learner.published.state_dict()
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    assert state
    assert all(".lora_" in name for name in state)
    assert sum(p.numel() for p in trained) == sum(t.numel() for t in state.values())
    with torch.no_grad():
        for parameter in trained:
            parameter.normal_()
    tokens_BT = torch.tensor([[1, 5, 9, 20]])
    with torch.inference_mode():
        wanted = learner.network(input_ids=tokens_BT).logits
        assert not torch.equal(actor.network(input_ids=tokens_BT).logits, wanted)
        load_payload(actor.published, to_payload(learner.published))
        assert torch.equal(actor.network(input_ids=tokens_BT).logits, wanted)


def test_what_is_frozen_under_adapters_is_compared_to_its_last_number(
    language_job: MakeJob,
) -> None:
    lora: dict[str, Any] = {"tiny": TINY, "lora": {"rank": 2}}
    ours, theirs = (built(language_job, **lora) for _ in range(2))
    assert ours.contract() == theirs.contract()
    with torch.no_grad():
        theirs.network.get_input_embeddings().weight[-1, -1] += 1e-3  # type: ignore[operator]
    assert ours.contract() != theirs.contract()


def test_adapters_for_no_layer_are_refused(language_job: MakeJob) -> None:
    with pytest.raises(UserError, match="'nowhere'") as raised:
        built(language_job, tiny=TINY, lora={"targetModules": ["nowhere"]})
    assert raised.value.path == "spec.policy.lora.targetModules"


def test_gradient_checkpointing_changes_no_gradient(language_job: MakeJob) -> None:
    tokens_BT = torch.tensor([[1, 5, 9, 20, 7]])
    gradients = []
    for on in (False, True):
        model = built(language_job, tiny=TINY, gradientCheckpointing=on).train()
        model.network(input_ids=tokens_BT, use_cache=False).logits.logsumexp(-1).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert model.network.is_gradient_checkpointing
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_gradient_checkpointing_that_a_model_cannot_do_is_refused(
    language_job: MakeJob, saved: Path, tmp_path: Path
) -> None:
    from transformers import CTRLConfig, CTRLLMHeadModel

    directory = copy_of(saved, tmp_path)
    vocabulary = len(character_tokenizer())
    config = CTRLConfig(vocab_size=vocabulary, n_positions=16, n_embd=8, dff=8, n_layer=1, n_head=2)
    CTRLLMHeadModel(config).save_pretrained(directory)
    policy = {"model": str(directory), "gradientCheckpointing": True}
    with pytest.raises(UserError, match="does not support gradient checkpointing") as raised:
        built(language_job, **policy)
    assert raised.value.path == "spec.policy.gradientCheckpointing"
    assert str(directory) in raised.value.problem
    assert "Set it to false" in raised.value.cure


def test_dropout_is_off(language_job: MakeJob, saved: Path, tmp_path: Path) -> None:
    directory = copy_of(saved, tmp_path)
    edit(directory / "config.json", attention_dropout=0.5)
    model = built(language_job, model=str(directory)).train()
    tokens_BT = torch.tensor([[1, 5, 9, 20, 7]])
    assert torch.equal(model.network(tokens_BT).logits, model.network(tokens_BT).logits)


def test_weights_that_are_pickles_are_refused_unread(
    language_job: MakeJob, saved: Path, tmp_path: Path
) -> None:
    directory = copy_of(saved, tmp_path)
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(UserError, match=r"are pickles \(pytorch_model.bin\)") as raised:
        built(language_job, model=str(directory))
    assert raised.value.path == "spec.policy.model"
    assert "safe_serialization" in raised.value.cure


def test_a_tokenizer_without_a_pad_token_pads_with_its_end(
    language_job: MakeJob, saved: Path, tmp_path: Path
) -> None:
    directory = copy_of(saved, tmp_path)
    edit(directory / "tokenizer_config.json", pad_token=None)
    model = built(language_job, model=str(directory))
    assert model.tokenizer.pad_token_id is None
    assert model.pad_token == model.end_tokens[0] == model.tokenizer.eos_token_id


def test_a_tokenizer_without_an_end_is_refused(
    language_job: MakeJob, saved: Path, tmp_path: Path
) -> None:
    directory = copy_of(saved, tmp_path)
    edit(directory / "tokenizer_config.json", eos_token=None)
    with pytest.raises(UserError, match="has no end token"):
        built(language_job, model=str(directory))


def test_all_ends_of_the_generation_settings_count(
    language_job: MakeJob, saved: Path, tmp_path: Path
) -> None:
    directory = copy_of(saved, tmp_path)
    edit(directory / "generation_config.json", eos_token_id=[7, 2])
    assert built(language_job, model=str(directory)).end_tokens == (2, 7)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"eos_token_id": [7,', "cannot be loaded: OSError"),
        ("[7]", "cannot be loaded"),
        ('{"eos_token_id": "</s>"}', "is ['</s>']"),
        ('{"eos_token_id": [2, true]}', "is [2, True]"),
        (None, "cannot be loaded: OSError"),
    ],
)
def test_generation_settings_that_cannot_be_read_are_refused(
    language_job: MakeJob, saved: Path, tmp_path: Path, text: str | None, told: str
) -> None:
    settings = copy_of(saved, tmp_path) / "generation_config.json"
    settings.unlink()
    if text is None:
        settings.mkdir()
    else:
        settings.write_text(text)
    problem = refused(language_job, tmp_path)
    assert f"the generation settings of {tmp_path}" in problem.replace("eos_token_id of ", "")
    assert told in problem


def test_a_model_without_generation_settings_has_its_tokenizers_end(
    language_job: MakeJob, saved: Path, tmp_path: Path
) -> None:
    (copy_of(saved, tmp_path) / "generation_config.json").unlink()
    assert built(language_job, model=str(tmp_path)).end_tokens == (2,)


@pytest.fixture
def cached(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, where all of `us/tiny` is but its generation settings."""
    import huggingface_hub.constants

    commit = "0" * 40
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--us--tiny"
    for directory in ("refs", f"snapshots/{commit}", f".no_exist/{commit}"):
        (model / directory).mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (copy_of(saved, model / "snapshots" / commit) / "generation_config.json").unlink()
    return model


@pytest.mark.usefixtures("cached")
def test_a_cache_that_is_all_there_is_need_not_have_generation_settings(
    language_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert built(language_job, model="us/tiny").end_tokens == (2,)


def test_a_hub_that_cannot_be_asked_for_generation_settings_is_no_hub_without(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("the network is away")

    def absent(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.EntryNotFoundError("404")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    source = Pretrained(LanguageModelPolicy(model="us/tiny"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", absent)
    assert source.end_tokens() == ()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(UserError, match=r"generation settings of us/tiny .*is away") as raised:
        source.end_tokens()
    assert raised.value.path == "spec.policy.model"
    (cached / ".no_exist" / ("0" * 40) / "generation_config.json").touch()
    assert source.end_tokens() == ()


def refused(job: MakeJob, directory: Path | str, path: str = "spec.policy.model") -> str:
    with pytest.raises(UserError) as raised:
        built(job, model=str(directory))
    assert raised.value.path == path
    assert raised.value.cure
    return raised.value.problem


def test_what_is_no_model_is_refused(language_job: MakeJob, saved: Path, tmp_path: Path) -> None:
    assert "no config.json" in refused(language_job, tmp_path)
    assert "no directory" in refused(language_job, tmp_path / "nowhere")
    assert "is a file" in refused(language_job, saved / "config.json")
    directory = copy_of(saved, tmp_path)
    edit(directory / "config.json", max_position_embeddings=15)
    told = refused(language_job, directory, "spec.task.maxCompletionTokens")
    assert told.startswith("a prompt and a completion may have 16 tokens together")
    edit(directory / "config.json", max_position_embeddings=64, model_type="nonesuch")
    assert "the configuration of" in refused(language_job, directory)
    edit(directory / "config.json", model_type="llama", vocab_size=50)
    assert "has 100 tokens, and the network 50" in refused_small(language_job, directory)
    (directory / "model.safetensors").write_bytes(b"not safetensors")
    assert "the weights of" in refused(language_job, directory)
    (directory / "model.safetensors").unlink()
    assert "there are no weights" in refused(language_job, directory)


def refused_small(job: MakeJob, directory: Path) -> str:
    spec = {"type": "languageModel", "model": str(directory)}
    with pytest.raises(UserError) as raised:
        build(job(policy=spec).spec.language, 0, pretrained=False)
    return raised.value.problem


def test_code_that_comes_with_a_model_does_not_run_unasked(
    language_job: MakeJob, saved: Path, tmp_path: Path
) -> None:
    directory = copy_of(saved, tmp_path)
    ran = tmp_path / "ran"
    (directory / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    auto = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    edit(directory / "config.json", model_type="own", auto_map=auto)
    told = refused(language_job, directory, "spec.policy.trustRemoteCode")
    assert "comes with Python code of its own" in told
    assert not ran.exists()


def test_a_name_that_cannot_be_fetched_is_refused_with_the_cure(
    language_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the configuration of nobody/nothing") as raised:
        built(language_job, model="nobody/nothing")
    assert "download it beforehand" in raised.value.cure


@pytest.mark.parametrize(
    "kind", ["MambaForCausalLM", "Qwen3NextForCausalLM", "FalconH1ForCausalLM"]
)
def test_a_model_that_keeps_more_than_keys_and_values_is_refused(
    language_job: MakeJob, tmp_path: Path, saved: Path, kind: str
) -> None:
    import transformers

    copy_of(saved, tmp_path)
    config = getattr(transformers, kind).config_class(hidden_size=64, num_hidden_layers=4)
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="recurrent or linear-attention layers") as raised:
        built(language_job, pretrained=False, model=str(tmp_path), attention="eager")
    assert raised.value.path == "spec.policy.model"
