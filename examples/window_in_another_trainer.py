"""A window of mask rates in a script that was written for another masked-diffusion trainer, without editing it.

Such scripts draw u = torch.rand((batch,)), mask at the rate t = (1 - eps) u + eps and weigh by 1/t (LLaDA's guidelines, and
most of what follows them). `window_of` replaces, while the script's own function that does so runs, the one-dimensional
torch.rand: the rates then follow a MaskRate. Noise of two dimensions, the masks', stays as it was, and so does what the script
draws elsewhere, such as LLaDA's random lengths.
"""

# %% The patch
import functools
import inspect
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mdlm_min import MaskRate


class _TorchWithWindow:
    """The module torch, but for one-dimensional draws."""

    def __init__(self, rate: MaskRate, epsilon: float) -> None:
        self._rate, self._epsilon, self.draws = rate, epsilon, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def rand(
        self, *size: Any, device: Any = None, dtype: Any = None, generator: torch.Generator | None = None, **options: Any
    ) -> Tensor:
        size = size or (options.pop("size"),)
        shape = tuple(size[0]) if not isinstance(size[0], int) else size
        if len(shape) != 1:
            return torch.rand(*size, device=device, dtype=dtype, generator=generator, **options)
        self.draws += 1
        if generator is None:  # of the global generator, as the script's own draw
            generator = torch.Generator().manual_seed(int(torch.randint(1 << 62, ())))
        rate = self._rate.sample(shape[0], generator)
        return ((rate - self._epsilon) / (1 - self._epsilon)).to(device or rate.device, dtype)


@contextmanager
def window_of(owner: Any, function: str, text: str, epsilon: float = 1e-3) -> Iterator[None]:
    """Within this context the mask rates that `function`, of a module or a method of a class, draws follow `text`, such as
    "U[0.45,0.55]"; `epsilon` is the script's own. Raises RuntimeError at the end where the function drew none: another form of
    drawing, such as torch.rand(batch, 1), is not replaced."""
    original = getattr(owner, function)
    names = inspect.unwrap(original).__globals__  # those of the module that it was written in
    plain, patched = names["torch"], _TorchWithWindow(MaskRate.parse(text), epsilon)

    @functools.wraps(original)
    def with_window(*arguments: Any, **options: Any) -> Any:
        names["torch"] = patched
        try:
            return original(*arguments, **options)
        finally:
            names["torch"] = plain

    setattr(owner, function, with_window)
    try:
        yield
    finally:
        setattr(owner, function, original)
    if not patched.draws:
        raise RuntimeError(f"{function} drew no one-dimensional torch.rand: its mask rates were not replaced")


# %% The other trainer: here a module of its own; yours is imported
SCRIPT = """
import torch

def forward_process(tokens, mask_token, eps=1e-3):
    batch, length = tokens.shape
    u = torch.rand(batch, device=tokens.device)
    rate = (1 - eps) * u + eps
    masked = torch.rand((batch, length), device=tokens.device) < rate[:, None]
    return torch.where(masked, mask_token, tokens), masked, rate

def training_step(model, tokens, mask_token):
    noisy, masked, rate = forward_process(tokens, mask_token)
    nll = torch.nn.functional.cross_entropy(model(noisy)[masked], tokens[masked], reduction="none")
    return (nll / rate[:, None].expand(tokens.shape)[masked]).sum() / tokens.numel()

class Trainer:
    def compute_loss(self, model, tokens, mask_token, eps=1e-3):
        t = eps + (1 - eps) * torch.rand(len(tokens), device=tokens.device)
        masked = torch.rand(tokens.shape, device=tokens.device) < t[:, None]
        logits = model(tokens.masked_fill(masked, mask_token))
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
        self.rates = t
        return (nll * masked / t[:, None]).sum() / tokens.numel()
"""
other_trainer = types.ModuleType("other_trainer")
exec(SCRIPT, vars(other_trainer))

# %% Turn the window on, and train as before
torch.manual_seed(0)
tokens = torch.randint(10, (512, 16))
model = torch.nn.Sequential(torch.nn.Embedding(11, 16), torch.nn.Linear(16, 10))
_, _, before = other_trainer.forward_process(tokens, 10)
with window_of(other_trainer, "forward_process", "U[0.45,0.55]"):
    _, masked, rate = other_trainer.forward_process(tokens, 10)
    loss = other_trainer.training_step(model, tokens, 10)
    loss.backward()
_, _, after = other_trainer.forward_process(tokens, 10)

trainer = other_trainer.Trainer()
with window_of(other_trainer.Trainer, "compute_loss", "U[0.45,0.55]"):  # a method
    trainer.compute_loss(model, tokens, 10)
for name, rates in (("before", before), ("within", rate), ("in a method", trainer.rates), ("after", after)):
    print(f"{name}: mask rates from {rates.min().item():.3f} to {rates.max().item():.3f}")
print(f"masked: {masked.float().mean().item():.3f} of the tokens, loss {loss.item():.3f}")
