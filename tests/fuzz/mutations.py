"""Bytes that were right once: changed, cut, doubled and joined."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))  # of each kind; `make fuzz` makes them many
SEED = int(os.environ.get("FUZZ_SEED", "14"))
_NUMBERS = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff" * 4, b"\xff" * 8, b"\0" * 8)


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds` with up to eight changes."""
    made = bytearray(rng.choice(seeds))
    for _ in range(rng.randrange(1, 9)):
        at = rng.randrange(len(made) + 1)
        match rng.randrange(7):
            case 0 if at < len(made):
                made[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(made):
                made[at] = rng.randrange(256)
            case 2:
                del made[at : at + rng.randrange(1, 16)]
            case 3:
                made[at:at] = rng.randbytes(rng.randrange(1, 16))
            case 4:
                made[at : at + 8] = rng.choice(_NUMBERS)
            case 5:
                made[at:at] = made[at : at + rng.randrange(1, 64)]
            case _:
                other = rng.choice(seeds)
                made[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(made)


def mutations(name: str, seeds: Sequence[bytes], count: int = EXAMPLES) -> Iterator[bytes]:
    """The same ones for the same `FUZZ_SEED`."""
    rng = random.Random(f"{SEED} {name}")
    return (mutate(rng, seeds) for _ in range(count))
