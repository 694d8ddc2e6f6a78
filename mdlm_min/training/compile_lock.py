"""The lock that a killed compilation leaves behind.

DeepSpeed compiles its extensions through torch when they are first used. Meanwhile torch keeps a file `lock` open in the
extension's folder and deletes it in the end (torch/utils/file_baton.py). A compilation that is killed does not delete it, and
every later one waits for it without a word.
"""

import os
from pathlib import Path

EXTENSIONS = ("cpu_adam", "deepspeed_ccl_comm", "deepspeed_shm_comm", "fused_adam", "pin_memory", "utils")  # of DeepSpeed


def left_behind() -> list[Path]:
    """Locks of DeepSpeed's extensions that no process of this machine holds. Empty where the system does not say who holds a
    file."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    found = [path for name in EXTENSIONS for pattern in (name, f"*/{name}") for path in root.glob(f"{pattern}/lock")]
    return [path for path in found if Path("/proc/self/fd").is_dir() and not _is_held(path)]


def _is_held(path: Path) -> bool:
    try:
        wanted = path.stat()
    except OSError:  # deleted meanwhile: its compilation has ended
        return True
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.path.samestat(descriptor.stat(), wanted):
                return True
        except OSError:  # the process has ended, or is another user's
            continue
    return False
