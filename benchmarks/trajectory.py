"""The trajectory path against a bare gRPC stream: what it costs beyond the transport.

Two processes, an actor's end and a learner's, and three streams between them, over the same kind of
client and server with the same options. Every fragment is answered on each of them.

- *Raw* is the least that a sender and a receiver must do: messages made beforehand, identity
  serialisers, each message in the receiver's hands as one `bytes` object, which is let go of.
- *Codec* adds what happens to the data: one copy into a message, parsing, every check, one copy
  into a batch. All in two event loops, where nothing waits for another thread.
- *Path* is the product: an outbox that keeps fragments until their fate is known, its stream and
  credits, the learner's servicer, ledger, buffer, and a training thread that takes batches. Only
  environments, policy and training are left out.

The rounds of the three take turns. A figure is the median over the rounds; a ratio is the median of
the ratios within a turn, so what else the machine does weighs on both sides of it. On few cores
both ends share them: the ratio then is one of CPU time, and a path that only waited would not show.

`overRawGrpc` is the ratio of MB/s, path over raw, of 1 MiB messages; `codecOverRawGrpc` that of the
codec alone.
"""

from __future__ import annotations

import multiprocessing
from statistics import median

from benchmarks.actor_end import CODEC, PATH, RAW, act
from benchmarks.fragments import CASES, Case
from benchmarks.learner_end import serve

ROUNDS = 15


def measure() -> dict[str, object]:
    """Return the ratios and the MB/s of all three for every size of message."""
    figures: dict[str, object] = {}
    for case in CASES:
        figures |= _figures(case.name, _rounds(case))
    return {"trajectory.overRawGrpc": figures["trajectory.overRawGrpc.1MiB"], **figures}


def _rounds(case: Case) -> dict[str, list[float]]:
    """Return MB/s of every round of every stream."""
    context = multiprocessing.get_context("spawn")
    control, server_end = context.Pipe()
    server = context.Process(target=serve, args=(case, server_end), daemon=True)
    server.start()
    results, client_end = context.Pipe(duplex=False)
    client = context.Process(
        target=act, args=(case, control.recv(), ROUNDS, client_end), daemon=True
    )
    client.start()
    client_end.close()
    try:
        rounds: dict[str, list[float]] = results.recv()
    finally:
        control.send(None)
        client.join(10)
        server.join(10)
    return rounds


def _figures(name: str, rounds: dict[str, list[float]]) -> dict[str, object]:
    return {
        f"trajectory.overRawGrpc.{name}": _ratio(rounds[PATH], rounds[RAW]),
        f"trajectory.codecOverRawGrpc.{name}": _ratio(rounds[CODEC], rounds[RAW]),
        f"trajectory.megabytesPerSecond.{name}": round(median(rounds[PATH])),
        f"trajectory.rawMegabytesPerSecond.{name}": round(median(rounds[RAW])),
    }


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return round(median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


if __name__ == "__main__":
    for key, value in measure().items():
        print(f"{key:48} {value}")
