import torch

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
