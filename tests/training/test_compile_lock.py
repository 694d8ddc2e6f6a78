import subprocess
import sys

import pytest

from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import RunFolder
from mdlm_min.training import launch
from mdlm_min.training.compile_lock import left_behind
from mdlm_min.training.engine import EngineConfig

HOLD = (
    "import sys; from torch.utils.file_baton import FileBaton; FileBaton(sys.argv[1]).try_acquire(); "
    "print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def lock(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    (tmp_path / "py311_cpu" / "deepspeed_shm_comm").mkdir(parents=True)
    return tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"


def test_a_lock_is_left_behind_when_its_holder_was_killed(lock):
    assert left_behind() == []
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdout.readline()
    assert lock.exists()
    assert left_behind() == []  # torch itself holds it
    holder.kill()
    holder.wait()
    assert left_behind() == [lock]


def test_a_run_that_would_wait_for_it_ends_with_one_line(lock, tmp_path, monkeypatch):
    lock.touch()
    other = lock.parent.parent / "somebody_else" / "lock"
    other.parent.mkdir()
    other.touch()
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **options: pytest.fail("the workers were started"))
    with pytest.raises(InputError) as error:
        launch.launch("pretrain", EngineConfig(kind="deepspeed"), RunFolder(tmp_path), print)
    assert str(lock) in str(error.value)
    assert str(other) not in str(error.value)
    assert "\n" not in str(error.value)
    lock.unlink()
    assert left_behind() == []
