"""What a schedule gives is checked at every call, and what its code raises is one line."""

import sys
from dataclasses import replace

import pytest
import torch

from baselines.schedules.puma import Puma
from mdlm_min.diffusion.checked_schedule import CheckedSchedule, check_fit
from mdlm_min.diffusion.density import InformationDensity
from mdlm_min.diffusion.mask_schedule import Context, MaskSchedule
from mdlm_min.diffusion.schedule_check import validate
from mdlm_min.run.errors import DivergedError, InputError
from mdlm_min.run.random_streams import stream

PARTS = ("tokens", "allowed", "padding_mask", "marks")


class Sound(MaskSchedule):
    name = "mine"

    def sample(self, context, generator):
        return 0.1 + 0.8 * torch.rand(context.rows, generator=generator)


def changed(**attributes):
    """The sound schedule with other methods or attributes."""
    return type("Changed", (Sound,), attributes)()


def eightfold(self, context):
    repeated = {name: getattr(context, name).repeat(8, 1) for name in PARTS if getattr(context, name) is not None}
    return replace(context, rows=8 * context.rows, **repeated)


def widened(self, context):
    return replace(context, allowed=torch.ones_like(context.tokens, dtype=torch.bool))


def writing(self, rate, context, generator):
    if context.allowed is not None:
        context.allowed.fill_(True)
    return MaskSchedule.mask(self, rate, context, generator)


def doubling(self, rate, mask, context):
    torch.set_default_dtype(torch.float64)
    return 1 / rate


def without_gradients(self, rate, mask, context):
    torch.set_grad_enabled(False)
    return 1 / rate


REFUSALS = {
    "no copies": ({"copies": 0}, r"copies is 0; allowed: a whole number from 1 to 64"),
    "copies below 0": ({"copies": -1}, r"copies is -1; allowed: a whole number from 1 to 64"),
    "text copies": ({"copies": "2"}, r"copies is '2'; allowed"),
    "half copies": ({"copies": 2.0}, r"copies is 2\.0; allowed"),
    "a truth": ({"copies": True}, r"copies is True; allowed"),
    "unknown needs": ({"needs": ("token",)}, r"needs is \('token',\); allowed: a tuple of names, .* among tokens, allowed"),
    "text needs": ({"needs": "tokens"}, r"needs is 'tokens'; allowed"),
    "no rates": ({"sample": lambda *_: None}, r"rates of type NoneType; allowed: a torch tensor of shape \(96,\)"),
    "numpy rates": ({"sample": lambda *_: torch.full((96,), 0.5).numpy()}, r"rates of type ndarray; allowed: a torch tensor"),
    "a list": ({"sample": lambda _, context, __: [0.5] * context.rows}, r"rates of type list; allowed: a torch tensor"),
    "no masks": ({"mask": lambda *_: None}, r"masks of type NoneType; allowed: a torch tensor of shape \(96, 32\)"),
    "a number": ({"weight": lambda *_: 1.0}, r"weights of type float; allowed: a torch tensor"),
    "no weights": ({"weight": lambda *_: None}, r"weights of type NoneType; allowed: a torch tensor"),
    "an error": ({"sample": lambda *_: 1 / 0}, r"sample raised ZeroDivisionError: division by zero, line \d+ of test_checked_s"),
    "a long error": ({"weight": lambda *_: {}["a\nb" * 999]}, r"weight raised KeyError: 'a"),
    "too few arguments": ({"sample": lambda self: None}, r"sample raised TypeError: .* takes 1 positional argument but 3 were"),
    "an end": ({"mask": lambda *_: sys.exit(0)}, r"mask raised SystemExit: 0, line \d+ of test_checked_s"),
    "many copies": ({"copies": 10**12}, r"copies is 1000000000000; allowed: a whole number from 1 to 64"),
    "meta rates": ({"sample": lambda *_: torch.empty(96, device="meta")}, r"rates of torch.float32, torch.strided, on meta;"),
    "sparse rates": ({"sample": lambda *_: torch.full((96,), 0.5).to_sparse()}, r"rates of torch.float32, torch.sparse_coo, on"),
    "meta weights": ({"weight": lambda _, rate, *__: rate.to("meta")}, r"weights of torch.float32, torch.strided, on meta;"),
    "complex weights": ({"weight": lambda _, rate, *__: (1 / rate).to(torch.complex64)}, r"weights of torch.complex64, .*: real"),
    "another dtype": ({"weight": doubling}, r"weight changes torch's own settings"),
    "no gradients": ({"weight": without_gradients}, r"weight changes torch's own settings"),
    "no context": ({"admit": lambda *_: None}, r"admit gives NoneType; allowed: a Context"),
    "more rows": ({"admit": eightfold}, r"admit gives rows = 768; allowed: 96, as it was given"),
    "more tokens": ({"admit": lambda _, context: replace(context, tokens=context.tokens.repeat(8, 1))},
                    r"admit: tokens: shape \(768, 32\) and torch.int64 is not allowed; allowed: \(96, 32\)"),
    "no tokens": ({"admit": lambda _, context: replace(context, tokens=None)}, r"admit gives tokens of type NoneType"),
    "other tokens": ({"admit": lambda _, context: replace(context, tokens=context.tokens.flip(1))}, r"admit gives a row that"),
    "another time": ({"admit": lambda _, context: replace(context, step=0)}, r"admit gives step = 0; allowed: 1, as it was"),
    "masked prompts": ({"admit": widened}, r"admit gives a row that is new; allowed: rows of this batch or of the last one"),
    "prompts forgotten": ({"admit": lambda _, context: replace(context, allowed=None)}, r"admit gives a row that is new"),
    "other marks": ({"admit": lambda _, context: replace(context, marks=~context.marks)}, r"admit gives a row that is new"),
    "written tokens": ({"admit": lambda _, context: replace(context, tokens=context.tokens.zero_())},
                       r"admit writes into a tensor that it was given; allowed: new tensors"),
    "written prompts": ({"mask": writing}, r"mask writes into a tensor that it was given"),
    "a list for a state": ({"state": lambda _: [1]}, r"its state is \[1\]; allowed: a table"),
    "no way back": ({"state": lambda _: {"a": 1}}, r"it has a state and no restore; allowed: both, or neither"),
    "a wrong way back": ({"state": lambda _: {"a": 1}, "restore": lambda _, state: state["b"]}, r"restore raised KeyError: 'b'"),
    "no copy": ({"lock": property(lambda _: None), "__deepcopy__": lambda *_: {}[1]}, r"cannot be copied \(KeyError: 1\)"),
}  # fmt: skip


def test_torch_s_own_settings_are_put_back():
    with pytest.raises(InputError, match="changes torch's own settings"):
        validate(changed(weight=doubling))
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(InputError, match="changes torch's own settings"):
        validate(changed(weight=without_gradients))
    assert torch.is_grad_enabled()


def test_a_property_that_raises_is_one_line():
    with pytest.raises(
        InputError, match="schedule Changed: its name, copies or needs raised ZeroDivisionError: division by zero"
    ):
        validate(changed(copies=property(lambda _: 1 / 0)))


@pytest.mark.parametrize("case", REFUSALS)
def test_an_ordinary_mistake_is_one_line(case):
    attributes, message = REFUSALS[case]
    with pytest.raises(InputError, match=f"^schedule mine: {message}") as refused:
        validate(changed(**attributes))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "estimates, message",
    [
        (lambda *_: 1.0, "estimates gives float; allowed: a BoundPart, or None"),
        (lambda *_: 1 / 0, "estimates raised ZeroDivision"),
    ],
)
def test_what_a_loss_is_said_to_estimate_is_checked(estimates, message):
    with pytest.raises(InputError, match=f"^schedule mine: {message}"):
        CheckedSchedule(changed(estimates=estimates)).estimates(Context(1, 1))


def test_a_failure_of_the_run_stays_one_and_gets_the_name():
    def diverges(*_):
        raise DivergedError("no loss is left")

    with pytest.raises(DivergedError, match="^schedule mine: weight: no loss is left$"):
        validate(changed(weight=diverges))


@pytest.mark.parametrize("name", ["a\nb", "", " ", None, 3])
def test_a_name_is_one_line_of_text(name):
    with pytest.raises(InputError, match="schedule Changed: its name is .*; allowed: a text on one line"):
        validate(changed(name=name))


def context(step=0, rows=8, length=6, seed=0):
    noise = stream(seed, "data", step)
    tokens = torch.randint(5, (rows, length), generator=noise)
    allowed = torch.arange(length) >= torch.randint(3, (rows, 1), generator=noise)
    return Context(rows, length, tokens, allowed, marks=tokens > 2, step=step, steps=99)


def kept(count):
    """A schedule that trains on the first batch for `count` steps, then on the new ones."""

    def admit(self, new):
        self.first = replace(new if new.step in (0, count) else self.first, step=new.step)
        return self.first

    return changed(admit=admit)


def test_rows_may_be_kept_over_steps_and_chosen_among():
    checked = CheckedSchedule(kept(5))
    for step in range(8):
        found = checked.admit(context(step))
        assert torch.equal(found.tokens, context(0 if step < 5 else 5).tokens)
    once = CheckedSchedule(
        changed(
            admit=lambda _, new: replace(new, **{part: getattr(new, part)[[0] * 8] for part in PARTS if part != "padding_mask"})
        )
    )
    once.admit(context())


def test_padding_is_a_part_of_a_row():
    real = torch.arange(6).expand(8, 6) < 5
    checked = CheckedSchedule(changed(admit=lambda _, new: replace(new, padding_mask=~new.padding_mask)))
    with pytest.raises(InputError, match="admit gives a row that is new"):
        checked.admit(replace(context(), padding_mask=real))


def test_rows_that_were_trained_on_are_known_after_a_restart_and_others_are_not():
    checked = CheckedSchedule(kept(9))
    checked.admit(context(0))
    state = checked.state()
    again, forged = CheckedSchedule(kept(9)), CheckedSchedule(kept(9))
    for one in (again, forged):
        one.own.first = context(0)
    again.restore(state)
    again.admit(context(1))
    with pytest.raises(InputError, match="admit gives a row that is new"):
        forged.admit(context(1))
    with pytest.raises(InputError, match="schedule mine: a state of rows; allowed: own, last_rows"):
        forged.restore({"rows": 1})


def test_puma_s_rows_are_its_own():
    checked, own = CheckedSchedule(Puma(3)), Puma(3)
    for step in range(9):
        found = [
            (new := one.admit(context(step)), rate := one.sample(new, stream(1, "masks", step)), one.mask(rate, new, None))
            for one in (checked, own)
        ]
        assert torch.equal(found[0][0].tokens, found[1][0].tokens) and torch.equal(found[0][2], found[1][2])
        for (new, rate, mask), one in zip(found, (checked, own), strict=True):
            one.observe(rate, mask, replace(new, confidence=torch.rand(int(mask.sum()), generator=stream(2, "seen", step))))
    wrapped = checked.state()
    assert wrapped["own"] == own.state()


def test_a_schedule_that_chooses_no_rows_has_the_state_that_it_has():
    assert CheckedSchedule(Sound()).state() == {}


def test_a_schedule_fits_its_batches_and_its_data():
    check_fit(InformationDensity(), 32, ("tokens", "marks"))
    with pytest.raises(InputError, match="batch: 32 is not allowed with schedule mine; a multiple of 5"):
        check_fit(changed(copies=5), 32, ("tokens",))
    with pytest.raises(InputError, match="schedule information_density: needs marks, which .*; it has tokens, nll, confidence"):
        check_fit(InformationDensity(), 32, ("tokens",))
