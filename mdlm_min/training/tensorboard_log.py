"""TensorBoard event files beside metrics.csv, written on request: MDLM_TENSORBOARD=1, or `mdlm run --tensorboard`."""

import os
from collections.abc import Callable
from pathlib import Path

from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import Row
from mdlm_min.training import distributed


def open_tensorboard_log(folder: Path, first: int) -> Callable[[Row], None]:
    """A function that writes a row of metrics into `folder`/tensorboard; what was written for later steps than `first` is void.

    Does nothing unless event files were requested, and nothing on any process but the first. Raises InputError where
    tensorboard is not installed.
    """
    if os.environ.get("MDLM_TENSORBOARD", "0") == "0" or distributed.rank() > 0:
        return lambda row: None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("tensorboard: is not installed; pip install 'mdlm-min[tensorboard]', or leave it out") from error
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)

    def write(row: Row) -> None:
        for name, value in row.items():
            if name != "step" and value == value:  # no points for what is not a number
                writer.add_scalar(name, value, int(row["step"]))
        writer.flush()

    return write
