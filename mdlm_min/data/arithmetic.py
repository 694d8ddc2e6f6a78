"""Arithmetic with worked steps: sums of small numbers, worked one step at a time, for fine-tuning a small model.

    question  7-5+3-1
    answer    7-5=2,2+3=5,5-1=4#4

All numbers are digits, so every token has its place, and what is to be learned is the calculation. A wrong choice has a slip in
one step and goes on from there without another, so that its result is wrong too. A name says which exercises:
"arithmetic:STEPS" or "arithmetic:STEPS:COUNT". They are all different, and the same for everyone. With one step the first number
is any that a longer chain can reach: the facts that its steps need.
"""

import random
import re
from collections.abc import Iterator

from mdlm_min.data.exercises import CHOICES, Exercise
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream_seed

LARGEST = 9  # of all numbers on the way; the smallest is 0
OPERAND = 9  # the largest number that is added or taken away
MOST_STEPS = 6
_NAME = re.compile(r"arithmetic:([1-9])(?::([0-9]{1,7}))?")

Step = tuple[int, str, int, int]  # left, + or -, right, result


def is_arithmetic(name: str) -> bool:
    """Whether a source's name means these exercises."""
    return name.startswith("arithmetic:")


def arithmetic(name: str) -> Iterator[Exercise]:
    """The exercises of a name, in random order. Raises InputError for a name that is none, and for more than there are."""
    match = _NAME.fullmatch(name)
    steps = int(match[1]) if match else 0
    count = int(match[2]) if match and match[2] else 5_000
    if not 1 <= steps <= MOST_STEPS or count < 1:
        raise InputError(
            f"data.source: {shown(name)} is unknown; allowed: arithmetic:STEPS or arithmetic:STEPS:COUNT, 1 to {MOST_STEPS} steps"
        )
    generator = random.Random(stream_seed(0, f"arithmetic {steps}"))
    if steps == 1:
        everything = [chain for left in range(LARGEST + 1) for chain in _facts(left)]
        if match and match[2] and count > len(everything):
            raise _too_many(name, len(everything) + 1)
        generator.shuffle(everything)
        yield from (_exercise([fact], generator) for fact in everything[:count])
        return
    seen: set[str] = set()
    for _ in range(100 * count):
        chain = _chain(steps, generator)
        if (question := _question(chain)) not in seen:
            seen.add(question)
            yield _exercise(chain, generator)
            if len(seen) == count:
                return
    raise _too_many(name, count)


def _too_many(name: str, count: int) -> InputError:
    return InputError(f"data.source: {shown(name)}: there are not as many different exercises; ask for fewer than {count}")


def _facts(left: int) -> list[Step]:
    """Every step that begins at a number and stays within bounds."""
    made = [(left, sign, right, _result(left, sign, right)) for sign in "+-" for right in range(1, OPERAND + 1)]
    return [step for step in made if 0 <= step[3] <= LARGEST]


def _result(left: int, sign: str, right: int) -> int:
    return left + right if sign == "+" else left - right


def _chain(steps: int, generator: random.Random) -> list[Step]:
    left = generator.randint(1, OPERAND)
    chain: list[Step] = []
    for _ in range(steps):
        chain.append(generator.choice(_facts(left)))
        left = chain[-1][3]
    return chain


def _question(chain: list[Step]) -> str:
    return f"{chain[0][0]}" + "".join(f"{sign}{right}" for _, sign, right, _ in chain)


def _answer(chain: list[Step]) -> str:
    steps = ",".join(f"{left}{sign}{right}={result}" for left, sign, right, result in chain)
    return f"{steps}#{chain[-1][3]}"


def _exercise(chain: list[Step], generator: random.Random) -> Exercise:
    wrong: set[str] = set()
    while len(wrong) < CHOICES - 1:
        slip = generator.choice((-3, -2, -1, 1, 2, 3))
        found = _with_slip(chain, generator.randrange(len(chain)), slip)
        if found is not None:
            wrong.add(_answer(found))
    return Exercise(_question(chain), "", (_answer(chain), *sorted(wrong)))


def _with_slip(chain: list[Step], at: int, slip: int) -> list[Step] | None:
    """The chain whose step `at` is off by `slip` and which goes on from there; None where it leaves the bounds."""
    made = list(chain[:at])
    left = chain[at][0]
    for index in range(at, len(chain)):
        _, sign, right, _ = chain[index]
        result = _result(left, sign, right) + (slip if index == at else 0)
        if not 0 <= result <= LARGEST:
            return None
        made.append((left, sign, right, result))
        left = result
    return made
