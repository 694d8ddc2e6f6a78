"""lm-eval's generation settings as ours: gen_kwargs, from the task and from the command line, become a SamplingConfig."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs

from mdlm_min.diffusion.sampling import SamplingConfig
from mdlm_min.run.config import build
from mdlm_min.run.errors import InputError

TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # lm-eval's names for one number
DEFAULT_TOKENS = 256  # of a generated answer, as in lm-eval's other models


def parse_gen_kwargs(options: Mapping[str, Any], guidance: float = 0.0) -> tuple[tuple[str, ...], int, SamplingConfig]:
    """Stop strings, number of tokens and sampling of lm-eval's gen_kwargs. Unless given: one step per token, temperature
    0, and the model's own guidance.

    Names of other implementations are known too: gen_length, cfg; remasking with an underscore. Raises InputError for an unknown
    name, and for a temperature without do_sample=True.
    """
    names = {"gen_length": "max_gen_toks", "cfg": "cfg_scale"}
    given = {names.get(name, name): value for name, value in options.items()}
    for other, name in names.items():
        if other in options and name in options and options[other] != options[name]:
            raise InputError(
                f"gen_kwargs: {other}={options[other]} and {name}={options[name]} contradict each other; one of them"
            )
    for name in ("temperature", *TOKENS):
        value = given.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float if name == "temperature" else int):
            raise InputError(f"gen_kwargs: {name}={given[name]} is not allowed; a number")
    if given.get("temperature", 0) > 0 and not given.get("do_sample"):
        raise InputError(
            f"gen_kwargs: temperature={given['temperature']} needs do_sample=True; without it lm-eval sets the temperature to 0, "
            "or keeps one sample for all repeats in its cache"
        )
    normal = dict(normalize_gen_kwargs(given, DEFAULT_TOKENS))
    normal.pop("do_sample", None)
    until, tokens = tuple(map(str, normal.pop("until", ()))), int(normal.pop("max_gen_toks"))
    known = {one.name for one in fields(SamplingConfig)}
    if unknown := [name for name in normal if name not in known]:
        allowed = ", ".join(("until", "max_gen_toks", "do_sample", *sorted(known)))
        raise InputError(f"gen_kwargs: {unknown[0]!r} is unknown; allowed: {allowed}")
    if isinstance(normal.get("remasking"), str):
        normal["remasking"] = normal["remasking"].replace("_", "-")
    return (
        until,
        tokens,
        build(SamplingConfig, {"steps": tokens, "temperature": 0.0, "cfg_scale": guidance, **normal}, "gen_kwargs."),
    )


def until_first(text: str, until: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    return text[: min((text.index(stop) for stop in until if stop and stop in text), default=len(text))]
