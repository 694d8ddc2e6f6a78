"""Every configuration, from arbitrary values: an instance, or one line that names the field."""

import math
from dataclasses import dataclass
from typing import Annotated

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_min.data.parity import ParityConfig
from mdlm_min.data.samples import SamplesConfig
from mdlm_min.data.text import TextConfig
from mdlm_min.diffusion.answer_likelihood import LikelihoodConfig
from mdlm_min.diffusion.sampling import SamplingConfig
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.mlp import MLPConfig
from mdlm_min.run.config import OneOf, Range, build, check_fields, differences
from mdlm_min.run.errors import InputError
from mdlm_min.tasks.language import LanguageRunConfig
from mdlm_min.tasks.parity import ParityRunConfig
from mdlm_min.tasks.pretrain import PretrainConfig
from mdlm_min.training.engine import EngineConfig
from mdlm_min.training.optimizer import TrainConfig

KINDS = (
    ParityRunConfig,
    LanguageRunConfig,
    PretrainConfig,
    SamplesConfig,
    TextConfig,
    ParityConfig,
    MLPConfig,
    ModelConfig,
    TrainConfig,
    EngineConfig,
)
NEEDED = {MLPConfig: {"vocab_size": 3, "length": 4}, ModelConfig: {"vocab_size": 3, "length": 4, "outputs": 3}}

numbers = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([0, -1, 10**9, 10**30, -(10**30), 10**400]),  # the last is beyond a float
    st.floats(allow_nan=True, allow_infinity=True),
)
words = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["U[0,1]", "1/0", "1/7", "0", "U[0,2]", "mlp", "rotary", "uniform", "words", "../x"]),
    st.sampled_from([prefix + "9" * 5000 for prefix in ("", "1/", "bpe:", "parities:", "x")]),
)
values = st.recursive(
    st.one_of(numbers, words, st.booleans(), st.none(), st.dates()),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


def fields_of(kind):
    """Dotted names of the fields of a configuration, nested ones included."""
    found = []
    for name, field in kind.__dataclass_fields__.items():
        default = field.default
        nested = fields_of(type(default)) if hasattr(default, "__dataclass_fields__") else []
        found += [name, *(f"{name}.{inner}" for inner in nested)]
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=100)
@given(data=st.data())
def test_arbitrary_values_give_a_configuration_or_one_line(kind, data):
    """100 cases for each of ten configurations. No network is made, not even without storage: a configuration is only numbers."""
    table = dict(NEEDED.get(kind, {})) if data.draw(st.integers(0, 9)) else {}
    for path in data.draw(st.lists(st.sampled_from(fields_of(kind)), min_size=1, max_size=4)):
        inside = table
        *folders, name = path.split(".")
        for folder in folders:
            inside = inside.setdefault(folder, {}) if isinstance(inside.get(folder, {}), dict) else {}
        inside[name if data.draw(st.integers(0, 19)) else data.draw(st.text(max_size=5))] = data.draw(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "__init__", lambda *_: pytest.fail("a network is made"))
        try:
            build(kind, table)
        except InputError as error:
            assert "\n" not in str(error)
            assert ":" in str(error)
            assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("kind", "table", "message"),
    [
        (TrainConfig, {"steps": 0}, "train.steps: 0 is not allowed; at least 1"),
        (TrainConfig, {"beta1": 1.0}, "train.beta1: 1.0 is not allowed; at least 0 and below 1"),
        (TrainConfig, {"beta2": -0.1}, "train.beta2: -0.1 is not allowed"),
        (TrainConfig, {"warmup": -1}, "train.warmup: -1 is not allowed; at least 0"),
        (TrainConfig, {"weight_decay": -1.0}, "train.weight_decay: -1.0 is not allowed; at least 0, finite"),
        (TrainConfig, {"learning_rate": math.nan}, "train.learning_rate: nan is not allowed; above 0, finite"),
        (TrainConfig, {"learning_rate": math.inf}, "train.learning_rate: inf is not allowed"),
        (TrainConfig, {"steps": 10**30}, "train.steps: 1000000000000000000000000000000 is not allowed"),
        (TrainConfig, {"steps": True}, "steps: True is a bool; allowed: int"),
        (TrainConfig, {"optimizer": "adam"}, "train.optimizer: 'adam' is unknown; allowed: adamw, sgd"),
        (ParityRunConfig, {"network": {"layers": 10**9}}, "model.layers: 1000000000 is not allowed; at least 1 and at most 1000"),
        (ParityRunConfig, {"network": {"kind": "cnn"}}, "network.kind: 'cnn' is unknown; allowed: transformer, mlp"),
        (ParityRunConfig, {"stop_after": -1}, "stop_after: -1 is not allowed; at least 0"),
        (LanguageRunConfig, {"batch": 10**9}, "batch: 1000000000 is not allowed"),
        (LanguageRunConfig, {"weight": "x" * 5000}, "weight: 'xxx"),
        (LanguageRunConfig, {"mask_rate": "1/0"}, "mask_rate: '1/0' is not a mask rate"),
        (LanguageRunConfig, {"data": {"length": 10**9}}, "data.length: 1000000000 is not allowed"),
        (EngineConfig, {"processes": 0}, "engine.processes: 0 is not allowed; at least 1"),
        (ParityRunConfig, {"network": {"width": 10**30}}, "model.width: 1000000000000000000000000000000 is not allowed"),
        (TrainConfig, {"steps": 1 << 20_000}, "train.steps: int of too many digits to print is not allowed; at least 1"),
        (TrainConfig, {"learning_rate": 10**400}, "learning_rate: 1000"),
        (TrainConfig, {"optimizer": "x" * 10**5}, "train.optimizer: 'xxx"),
        (TrainConfig, {"a\nb": 1}, "'a\\nb': no such setting; allowed: steps"),
        (ModelConfig, {"vocab_size": 3, "length": 4}, "outputs: is missing"),
        (PretrainConfig, {"data": None}, "data: None is not a table"),
        (TextConfig, ["corpus"], "settings: ['corpus'] is not a table"),
        (ParityConfig, {"k": 21}, "data.k: 21 is not allowed; at most data.n = 20"),
    ],
)
def test_what_is_refused_is_named_with_what_is_allowed(kind, table, message):
    with pytest.raises(InputError) as error:
        build(kind, table)
    assert message in str(error.value)
    assert len(str(error.value)) < 400


def test_limits_stand_beside_the_fields():
    @dataclass(frozen=True)
    class Some:
        share: Annotated[float, Range(0, 1, open_least=True)] = 0.5
        kind: Annotated[str, OneOf(("a", "b"))] = "a"

        def __post_init__(self):
            check_fields(self, "some.")

    Some(1.0, "b")
    for wrong in (0.0, 1.1, math.nan):
        with pytest.raises(InputError, match=r"some.share: .* is not allowed; above 0 and at most 1"):
            Some(wrong)
    with pytest.raises(InputError, match="some.kind: 'c' is unknown; allowed: a, b"):
        Some(kind="c")


def test_a_difference_is_named_by_its_field_with_both_values():
    there = {"seed": 0, "train": {"steps": 700, "clip": 1.0}, "data": {"corpus": "a"}, "old": None}
    asked = {"seed": 0, "train": {"steps": 900, "clip": 1.0}, "data": "a", "new": 1}
    assert differences(there, asked) == [
        "data: {'corpus': 'a'} there, 'a' asked",
        "new: nothing there, 1 asked",
        "old: None there, nothing asked",
        "train.steps: 700 there, 900 asked",
    ]
    assert differences(there, {**there}) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SamplingConfig("random", "3"), "steps: '3' is a str; allowed: int"),
        (lambda: SamplingConfig("random", 2.5), "steps: 2.5 is a float; allowed: int"),
        (lambda: SamplingConfig("random", True), "steps: True is a bool; allowed: int"),
        (lambda: SamplingConfig(temperature="1"), "temperature: '1' is a str; allowed: float"),
        (lambda: LikelihoodConfig(passes=2.5), "passes: 2.5 is a float; allowed: int"),
    ],
)
def test_an_instance_made_by_hand_is_checked_too(make, message):
    with pytest.raises(InputError, match=message):
        make()
    assert SamplingConfig(temperature=1).temperature == 1  # a whole number is a float
