"""Work in pieces that survives a kill: each piece is kept in a partial file beside the output, and found there by the same
command."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdlm_min.run.files import locked, own_descriptor, write_whole
from mdlm_min.run.record_log import RecordLog


def beside(output: Path) -> Path:
    """The partial file of an output that is a file, or will be."""
    return output.with_name(f"{output.name}.partial")


def partial_path(output: Path) -> Path | None:
    """Where the work for an output is kept until it is whole; None where the output is no file that can be replaced."""
    stream = own_descriptor(output) is not None or (output.exists() and not output.is_file())
    return None if stream else beside(output)


@contextmanager
def one_writer(output: Path) -> Iterator[None]:
    """Hold an output and its partial file. Raises InputError where another process does: two would mix their work."""
    path = partial_path(output)
    if path is None:
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    with locked(lock, what=str(output)):
        yield


class Partial(RecordLog):
    """`OUTPUT.partial`. An output that is no regular file (/dev/stdout, a pipe) has none."""

    def __init__(self, output: Path, configuration: Mapping[str, Any]) -> None:
        """See RecordLog."""
        super().__init__(partial_path(output), configuration, "output")
        self.output = output

    def finish(self, content: str) -> None:
        """Write the output whole; the partial file has served."""
        write_whole(self.output, content)
        self.remove()
