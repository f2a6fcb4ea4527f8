"""Arithmetic problems made on the spot, all of them different."""

import random

from vaco.errors import UserError
from vaco.job import ArithmeticData

from vaco_policy.language.problem import Problem
from vaco_policy.seeding import derive


def make(data: ArithmeticData) -> tuple[list[Problem], list[Problem]]:
    """Return the problems to train on and those held out.

    All ways to write a problem with numbers of at most so many digits are equally likely. The ones
    held out are drawn first: they stay the same when there are more to train on.

    Raises:
        UserError: there are not that many.

    """
    wanted = data.problems + data.held_out
    numbers = 10**data.digits
    operators: list[str] = sorted(set(data.operators))
    different = numbers**data.terms * len(operators) ** (data.terms - 1)
    if wanted > different:
        raise UserError(
            "spec.task.data.problems",
            f"{data.problems}, and {data.held_out} held out, but {data.terms} numbers of "
            f"{data.digits} digits make {different} different problems",
            "Lower it or `heldOut`, or raise `digits` or `terms`.",
        )
    generator = random.Random(derive(data.seed, "arithmetic"))  # noqa: S311 - problems, not secrets
    drawn = [
        _problem(code, data, numbers, operators) for code in _draw(generator, different, wanted)
    ]
    return drawn[data.held_out :], drawn[: data.held_out]


def _draw(generator: random.Random, different: int, count: int) -> list[int]:
    if different <= 2 * count:
        return generator.sample(range(different), count)
    drawn: dict[int, None] = {}
    # More than half of them are free at any time.
    while len(drawn) < count:
        drawn[generator.randrange(different)] = None
    return list(drawn)


def _problem(code: int, data: ArithmeticData, numbers: int, operators: list[str]) -> Problem:
    code, first = divmod(code, numbers)
    text, total, product = str(first), 0, first
    for _ in range(data.terms - 1):
        code, number = divmod(code, numbers)
        code, which = divmod(code, len(operators))
        operator = operators[which]
        text += f"{operator}{number}"
        # Products bind tighter: one is only added when it is complete.
        if operator == "*":
            product *= number
        else:
            total += product
            product = number if operator == "+" else -number
    return Problem(f"{text}=", str(total + product))
