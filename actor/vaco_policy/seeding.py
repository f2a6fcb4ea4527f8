"""One seed for a job, and from it an independent one for everything that draws at random.

Every environment, generator and initialisation names itself, so that no two share a stream and
none depends on how many others were seeded before it.
"""

import hashlib

_SEED_BITS = 63


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and on every name, in order.

    Stable over processes, machines and versions of Python. Names are separated and typed in what
    is hashed: ("a", "b") is not ("ab",), and 1 is not "1".

    Args:
        seed: The job's seed (`spec.seed`), or one that was derived already.
        names: What is seeded, from the general to the particular: `derive(0, "actor", 3, "env")`.

    """
    digest = hashlib.blake2b(digest_size=8, person=b"vaco.seeding")
    for part in (seed, *names):
        kind = b"s" if isinstance(part, str) else b"i"
        text = str(part).encode()
        digest.update(kind + len(text).to_bytes(4, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> (64 - _SEED_BITS)
