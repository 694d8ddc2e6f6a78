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


ALIASES = {**dict.fromkeys(TOKENS[1:], TOKENS[0]), "gen_length": TOKENS[0], "cfg": "cfg_scale"}


def one_name_each(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options under one name each. Raises InputError where one is given under two names with two values."""
    given: dict[str, Any] = {}
    named: dict[str, str] = {}
    for name, value in options.items():
        known = ALIASES.get(name, name)
        if known in given and given[known] != value:
            both = f"{named[known]}={given[known]} and {name}={value}"
            raise InputError(f"gen_kwargs: {both} contradict each other; allowed: one of them")
        given[known], named[known] = value, name
    return given


def parse_gen_kwargs(options: Mapping[str, Any], guidance: float = 0.0) -> tuple[tuple[str, ...], int, SamplingConfig]:
    """Stop strings, number of tokens and sampling of lm-eval's gen_kwargs. Unless given: one step per token, temperature
    0, and the model's own guidance.

    Names of other implementations are known too (ALIASES); remasking with an underscore. Raises InputError for an unknown
    name, and for a temperature without do_sample=True.
    """
    given = one_name_each(options)
    for name in ("temperature", *TOKENS):
        value = given.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float if name == "temperature" else int):
            raise InputError(f"gen_kwargs: {name}={given[name]} is not allowed; a number")
    if given.get(TOKENS[0], 1) < 1:
        name = next(name for name in options if ALIASES.get(name, name) == TOKENS[0])  # as it was given
        raise InputError(f"gen_kwargs: {name}={options[name]} is not allowed; at least 1")
    if not isinstance(given.get("do_sample", False), bool):
        raise InputError(f"gen_kwargs: do_sample={given['do_sample']} is not allowed; True or False")
    if given.get("temperature", 0) > 0 and not given.get("do_sample"):
        raise InputError(
            f"gen_kwargs: temperature={given['temperature']} needs do_sample=True; without it lm-eval sets the temperature to 0, "
            "or keeps one sample for all repeats in its cache"
        )
    until = given.get("until", [])
    if not all(isinstance(one, str) for one in (until if isinstance(until, list | tuple) else [until])):
        raise InputError(f"gen_kwargs: until={until} is not allowed; a text, or a list of texts")
    normal = dict(normalize_gen_kwargs(given, DEFAULT_TOKENS))
    normal.pop("do_sample", None)
    stops, tokens = tuple(normal.pop("until", ())), int(normal.pop("max_gen_toks"))
    known = {one.name for one in fields(SamplingConfig)}
    if unknown := [name for name in normal if name not in known]:
        allowed = ", ".join(("until", "max_gen_toks", "do_sample", *sorted(known)))
        raise InputError(f"gen_kwargs: {unknown[0]!r} is unknown; allowed: {allowed}")
    if isinstance(normal.get("remasking"), str):
        normal["remasking"] = normal["remasking"].replace("_", "-")
    return (
        stops,
        tokens,
        build(SamplingConfig, {"steps": tokens, "temperature": 0.0, "cfg_scale": guidance, **normal}, "gen_kwargs."),
    )


def until_first(text: str, until: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    return text[: min((text.index(stop) for stop in until if stop and stop in text), default=len(text))]
