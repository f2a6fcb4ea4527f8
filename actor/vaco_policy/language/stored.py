"""Language models on disk: out of a learner's checkpoint, and into Hugging Face's layout.

A checkpoint has the published weights alone. The rest comes from the job: the architecture, the
tokenizer, and what is frozen under adapters.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Final

from vaco.checkpoints import POLICY, STATE, read_manifest, read_parts
from vaco.errors import UserError
from vaco.job import VACOJob

from vaco_policy.language.model import LanguageModel, build
from vaco_policy.parameters import load_payload

_READABLE: Final = 0o644


def read_model(directory: Path, job: VACOJob) -> tuple[LanguageModel, int]:
    """Return the language model of one checkpoint of a run, and its version.

    Args:
        directory: such as `RUN/checkpoints/v000000123`.
        job: the run's.

    Raises:
        UserError: a file is missing or is not what the checkpoint's manifest says, the checkpoint
            is another job's, or the model that the job names is not the one that was trained.

    """
    contents = read_parts(directory, read_manifest(directory, job.metadata.uid), (POLICY, STATE))
    state: dict[str, Any] = json.loads(contents[STATE])
    model = build(job.spec.language, job.spec.seed, pretrained=False)
    if json.loads(state["contract"]) != json.loads(model.contract()):
        raise UserError(
            str(directory),
            f"its weights are of another model than {model.name} is now",
            "Use the model, and its revision, that the run was started with.",
        )
    load_payload(model.published, contents[POLICY])
    return model.eval(), int(state["version"])


def write_model(directory: Path, model: LanguageModel, max_new_tokens: int) -> list[Path]:
    """Write a model as `transformers` does, which `from_pretrained` loads by the path.

    Adapters are merged into the weights that they adapt, so what is written stands alone.

    Args:
        directory: where; made if it is not there.
        model: not to be used afterwards: merging changes it.
        max_new_tokens: of a completion, in the generation settings.

    Returns:
        All files in the directory.

    Raises:
        UserError: it cannot be written.

    """
    network: Any = model.network
    merge = getattr(network, "merge_and_unload", None)
    if merge is not None:
        network = merge()
    settings = network.generation_config
    settings.eos_token_id = list(model.end_tokens)
    settings.pad_token_id = model.pad_token
    settings.max_new_tokens = max_new_tokens
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            network.save_pretrained(directory)
            # Where generation begins, at the right, there is to be no padding.
            model.tokenizer.padding_side = model.tokenizer.init_kwargs["padding_side"] = "left"
            model.tokenizer.save_pretrained(directory)
        for file in directory.glob("*.safetensors"):
            file.chmod(_READABLE)
    except OSError as error:
        raise UserError(str(directory), f"cannot be written ({error.strerror})") from error
    return sorted(path for path in directory.iterdir() if path.is_file())
