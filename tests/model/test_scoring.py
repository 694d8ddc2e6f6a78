"""The loss without the scores: equal values and gradients, and the memory."""

import pytest
import torch
import torch.nn.functional as F

from mdlm_min.model import scoring
from mdlm_min.model.llada import scaled
from mdlm_min.model.scoring import Head
from mdlm_min.model.selection import grid_size
from mdlm_min.model.transformer import Transformer


def step(head, x, targets, weights, dtype, whole, monkeypatch):
    monkeypatch.setattr(scoring, "WHOLE", (1 << 40) if whole else 0)
    head.slice = 1  # as thin as slices are
    assert scoring.classes_at_a_time(len(x), head.out_features, head.slice) == (head.out_features if whole else 512)
    x.grad = head.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
        losses = head(x, targets)
    (losses * weights).sum().backward()
    assert losses.dtype == torch.float32
    return losses.detach(), x.grad, head.weight.grad


@pytest.mark.parametrize("dtype", ["float32", "autocast", "bfloat16"])
def test_slices_give_the_losses_and_gradients_of_the_whole(dtype, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    head = Head(24, 1300).to(kind)
    x = torch.randn(37, 24, generator=generator).mul(3).to(kind).requires_grad_()
    targets = torch.randint(1300, (37,), generator=generator)
    targets[:4] = torch.tensor([0, 511, 512, 1299])  # at the edges of slices
    weights = torch.rand(37, generator=generator)
    whole = step(head, x, targets, weights, dtype, True, monkeypatch)
    sliced = step(head, x, targets, weights, dtype, False, monkeypatch)
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    for mine, expected in zip(sliced, whole, strict=True):
        assert mine.dtype == expected.dtype
        torch.testing.assert_close(mine.float(), expected.float(), rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    torch.testing.assert_close(sliced[0], whole[0], rtol=1e-5, atol=1e-5)  # the same rounded scores, added up in float64


def test_scores_far_from_zero_do_not_overflow(monkeypatch):
    monkeypatch.setattr(scoring, "WHOLE", 0)
    head = Head(2, 2000)
    head.slice = 1
    head.weight.data.copy_(torch.linspace(-300, 300, 4000).view(2000, 2))
    x = torch.ones(3, 2, requires_grad=True)
    targets = torch.tensor([0, 1000, 1999])
    losses = head(x, targets)
    losses.sum().backward()
    torch.testing.assert_close(losses, F.cross_entropy(x.detach() @ head.weight.detach().T, targets, reduction="none"))
    assert x.grad.isfinite().all() and head.weight.grad.isfinite().all()


def test_a_small_vocabulary_is_scored_whole_with_the_bits_of_cross_entropy():
    model = Transformer(scaled(2, 2, 16, vocab_size=50, outputs=50, length=12), torch.Generator().manual_seed(0))
    tokens = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = tokens % 3 == 0
    expected = F.cross_entropy(model(tokens, mask), tokens[mask], reduction="none")
    assert torch.equal(model(tokens, mask, targets=tokens[mask]), expected)
    with pytest.raises(ValueError, match="targets: they need a selection"):
        model(tokens, targets=tokens[mask])


def test_a_transformer_s_gradients_do_not_depend_on_slices(monkeypatch):
    model = Transformer(scaled(2, 2, 16, vocab_size=1500, outputs=1500, length=40), torch.Generator().manual_seed(0))
    tokens = torch.randint(1500, (3, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[0, 0] ^= bool(mask.sum() % 2 == 0)  # an odd number: the selection is padded
    assert int(mask.sum()) < grid_size(int(mask.sum()))
    model.head.slice = 1
    found = {}
    for whole in (1 << 40, 0):
        monkeypatch.setattr(scoring, "WHOLE", whole)
        model.zero_grad(set_to_none=True)
        model(tokens, mask, targets=tokens[mask]).mean().backward()
        found[whole] = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1 << 40][name], rtol=1e-4, atol=1e-7)


def test_the_scores_memory_at_llada_s_vocabulary_is_a_tenth(allocation_peak, monkeypatch):
    """Beyond the gradient of the head, which every step needs: whole, and in slices."""
    rows, width, classes = 256, 16, 126464
    head, targets = Head(width, classes), torch.arange(rows)
    peaks = {}
    for whole in (1 << 40, 0):
        monkeypatch.setattr(scoring, "WHOLE", whole)
        x = torch.randn(rows, width, requires_grad=True)
        head.weight.grad = None
        peaks[whole] = allocation_peak(lambda x=x: head(x, targets).mean().backward()) - head.weight.nbytes
    assert peaks[1 << 40] > 2 * 4 * rows * classes  # scores and their gradient at least
    assert peaks[0] < 0.1 * peaks[1 << 40]
