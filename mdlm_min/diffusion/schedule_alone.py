"""A schedule's file by itself, as it is sent: in a process that can import this library, baselines/ and what is installed, and
nothing that lies beside the file or in the working directory."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mdlm_min.run.environment import PACKAGE, ROOT
from mdlm_min.run.errors import InputError


def name_alone(file: Path, kind: str) -> str:
    """The name of the schedule whose class is `kind`. Raises InputError where the class needs more than its file, or breaks the
    interface."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "schedule.py").write_bytes(file.read_bytes())
        (place / "path").mkdir()
        for package in (PACKAGE, ROOT / "baselines"):
            (place / "path" / package.name).symlink_to(package)
        command = [sys.executable, "-P", "-m", "mdlm_min.diffusion.schedule_alone", f"schedule.py:{kind}"]
        environment = os.environ | {"PYTHONPATH": str(place / "path")}
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or "killed").splitlines()[-1]
        raise InputError(f"{file}: is not whole by itself: {said}")
    if not done.stdout.strip():
        raise InputError(f"{file}: is not whole by itself: it ends the process")
    return done.stdout.splitlines()[-1]


def _main(spec: str) -> None:
    from mdlm_min.diffusion.own_schedule import load_schedule
    from mdlm_min.diffusion.schedule_check import validate

    try:
        schedule = load_schedule(spec)
        validate(schedule)
    except InputError as error:
        sys.exit(str(error))
    print(f"\n{schedule.name}")  # below what the class may have printed


if __name__ == "__main__":
    _main(sys.argv[1])
