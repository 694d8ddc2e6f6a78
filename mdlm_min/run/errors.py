"""The ways in which a command fails on purpose. Anything else is a bug and keeps its traceback."""


class InputError(Exception):
    """Bad input: the message is one line naming the field, the value and what is allowed. Exit code 2."""


class RunError(Exception):
    """A run that started well and failed, such as a loss that is not finite. Exit code 3."""


class DivergedError(RunError):
    """A run whose loss or weights are no longer finite."""


# What refuses a run before it begins: bad input, and no memory for what was asked, which torch says by a RuntimeError.
REFUSALS = (InputError, MemoryError, RuntimeError)


def one_line(error: BaseException) -> str:
    """An exception of somebody else's code, as a message shows it."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
