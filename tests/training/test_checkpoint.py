import shutil

import pytest
import torch

from mdlm_min.run.errors import DivergedError
from mdlm_min.training.checkpoint import checkpoints, save_checkpoint


def test_what_a_kill_left_of_a_checkpoint_is_cleared_away(tmp_path):
    for step in (1, 2):
        (tmp_path / f".new-{step:09d}").mkdir()
    save_checkpoint(tmp_path, 2, [("model.weight", torch.ones(1))], {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000002"]


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    for step in (10**9, 2, 999_999_999, 10**10):
        save_checkpoint(tmp_path, step, [("model.weight", torch.ones(1))], {})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-1000000000", "step-10000000000"]


def test_a_copy_beside_the_checkpoints_is_none_and_stays(tmp_path):
    save_checkpoint(tmp_path, 2, [("model.weight", torch.ones(1))], {})
    shutil.copytree(tmp_path / "step-000000002", tmp_path / "step-000000002.bak")
    for step in (3, 4):
        save_checkpoint(tmp_path, step, [("model.weight", torch.ones(1))], {})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000003", "step-000000004"]
    assert (tmp_path / "step-000000002.bak").is_dir()


def test_a_tensor_that_is_not_finite_leaves_nothing_half_written(tmp_path):
    def tensors():
        yield "model.first", torch.ones(100)
        yield "model.second", torch.ones(100)
        raise DivergedError("model.third is not finite")

    save_checkpoint(tmp_path, 1, [("model.weight", torch.ones(1))], {})
    with pytest.raises(DivergedError):
        save_checkpoint(tmp_path, 2, tensors(), {}, shard_bytes=400)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
