"""Take a trained policy out of a run: `python -m vaco_policy.export`.

Writes `policy.safetensors` and `policy.json`; with `--onnx` also `policy.onnx`, which holds the
actor alone and is compared with the policy before it is written. A language model is written as
`transformers` lays it out, with its tokenizer and adapters merged.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vaco.errors import EXIT_OK, EXIT_PERMANENT, UserError
from vaco.job import VACOJob, load_job

from vaco_policy.stored import read_checkpoint, write_export


def export(job: Path, checkpoint: Path, out: Path, *, onnx: bool = False) -> list[Path]:
    """Export the policy of one checkpoint; returns the files written.

    Raises:
        UserError: Job or checkpoint cannot be read, `out` cannot be written, or the ONNX file does
            not compute what the policy computes.

    """
    given = load_job(job)
    if given.spec.is_language:
        return _export_language(given, checkpoint, out, onnx=onnx)
    stored = read_checkpoint(checkpoint, given.spec.control.policy, given.metadata.uid)
    policy = stored.build()
    written = write_export(out, stored)
    if onnx:
        # Takes seconds to import.
        from vaco_policy.onnx_export import write_onnx

        written.append(write_onnx(policy, out))
    return written


def _export_language(job: VACOJob, checkpoint: Path, out: Path, *, onnx: bool) -> list[Path]:
    if onnx:
        raise UserError(
            "--onnx",
            "language models are not written as ONNX",
            "Leave it out, and convert what is written, with `optimum` for example.",
        )
    from vaco_policy.language.stored import read_model, write_model

    model, _ = read_model(checkpoint, job)
    return write_model(out, model, job.spec.language.task.max_completion_tokens)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="vaco_policy.export", description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="the run's job.yaml")
    parser.add_argument("--checkpoint", type=Path, required=True, help="directory of a checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="directory to write to")
    parser.add_argument("--onnx", action="store_true", help="write policy.onnx as well")
    options = parser.parse_args(arguments)
    try:
        written = export(options.job, options.checkpoint, options.out, onnx=options.onnx)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_PERMANENT
    sys.stdout.writelines(f"{path}\n" for path in written)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
