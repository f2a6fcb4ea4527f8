"""A film of one episode: what the environment draws, or else what the policy sees of it."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from vaco.errors import UserError
from vaco.job import GymnasiumTask
from vaco_policy.policy import Policy

from vaco_actor.environments import draws, make_vector_env
from vaco_actor.play import Observations, play

Picture = npt.NDArray[np.uint8]

FRAMES_PER_SECOND: Final = 30
# Three minutes; films of more are cut there, the episode is played on.
MAX_PICTURES: Final = 180 * FRAMES_PER_SECOND
_SMALLEST_SIDE: Final = 240


def record(task: GymnasiumTask, policy: Policy, seed: int, path: Path) -> None:
    """Play one episode and write it to `path`: `.mp4`, or `.gif`.

    A policy that was trained on what a vector entry point shows (Atari's small grey screens)
    cannot play the single environments that draw; then, and where nothing draws, observations are
    filmed.

    Raises:
        UserError: There is nothing to film, or the file cannot be written.

    """
    if path.suffix not in (".mp4", ".gif"):
        raise UserError("--video", f"'{path}' is neither .mp4 nor .gif", "Name one of these.")
    _draw_off_screen()
    drawn = draws(task)
    environment = make_vector_env(task, 1, seed, render=drawn)
    if drawn and environment.spaces != policy.spaces:
        environment.close()
        drawn = False
        environment = make_vector_env(task, 1, seed)
    with environment, _writer(path) as write:
        play(
            environment,
            policy,
            1,
            threading.Event(),
            lambda seen: write(environment.render() if drawn else _screen(seen)),
        )


def _draw_off_screen() -> None:
    """Keep SDL, by which most environments draw, from looking for a display and a sound card.

    It would complain where there are none, or open a window. Whoever sets a driver keeps it.
    """
    for driver in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(driver, "dummy")


def _screen(observations: Observations) -> Picture:
    """Return the newest frame of the first environment's image as [H, W, 3], large enough to see.

    Raises:
        UserError: No observation is an image.

    """
    for values in observations.values():
        image = values[0]
        if image.dtype != np.uint8 or image.ndim not in (2, 3, 4):
            continue
        if image.ndim == 4:
            image = image[-1]
        if image.ndim == 3 and image.shape[-1] not in (1, 3):
            image = image[-1]
        grey = image if image.ndim == 2 else image[..., 0]
        colours = image if image.shape[-1] == 3 and image.ndim == 3 else np.stack([grey] * 3, -1)
        times = -(-_SMALLEST_SIDE // min(colours.shape[:2]))
        return colours.repeat(times, axis=0).repeat(times, axis=1)
    raise UserError("--video", "the environment draws no pictures", "Leave it out.")


@contextmanager
def _writer(path: Path) -> Iterator[Callable[[Picture], None]]:
    # Late, because only films need it.
    import imageio.v2 as imageio

    get_writer: Any = imageio.get_writer
    options: dict[str, Any] = {"fps": FRAMES_PER_SECOND}
    if path.suffix == ".gif":
        options = {"duration": 1000 / FRAMES_PER_SECOND, "loop": 0}
    else:
        # The codec halves the colour's resolution, so sides must be even.
        options["macro_block_size"] = 2
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with get_writer(path, **options) as writer:

            def write(picture: Picture) -> None:
                nonlocal written
                if written < MAX_PICTURES:
                    writer.append_data(picture)
                written += 1

            yield write
    except OSError as error:
        raise UserError("--video", f"'{path}' cannot be written: {error}") from error
