import ast
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import mdlm_min
from mdlm_min.diffusion import mask_schedule
from mdlm_min.run.errors import InputError


@pytest.mark.parametrize("name", mdlm_min.__all__)
def test_a_public_name_resolves_and_says_what_it_is(name):
    value = getattr(mdlm_min, name)
    text = inspect.getdoc(value) or ""
    assert text and not text.startswith(f"{name}(")  # the text that dataclass writes by itself
    assert value is getattr(mdlm_min, name)
    assert name in dir(mdlm_min)


def test_type_checkers_see_the_same_names_in_the_same_modules():
    tree = ast.parse(Path(mdlm_min.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == mdlm_min._HOMES


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'masked_los'"):
        mdlm_min.masked_los  # noqa: B018


def test_a_star_import_gives_the_public_names():
    names: dict[str, object] = {}
    exec("from mdlm_min import *", names)
    assert set(mdlm_min.__all__) <= names.keys()


def test_the_readme_s_lines_of_python_run():
    """As they are pasted."""
    page = (Path(mdlm_min.__file__).parents[1] / "README.md").read_text()
    lines = page.partition("\nFrom Python ")[2].partition("\n\n")[2].partition("\n\n**")[0]
    names: dict[str, Any] = {}
    exec(textwrap.dedent(lines), names)
    assert names["mask"].shape == (8, 64)
    assert names["loss"].isfinite()


def test_the_schedule_of_the_interface_s_own_page_passes_the_check_that_contributing_names():
    text = inspect.getdoc(mask_schedule)
    body = textwrap.dedent(text.partition("to 1/t.\n\n")[2].partition("\n\nAll three")[0])
    names = dict(vars(mask_schedule))
    exec(body, names)
    page = (Path(mdlm_min.__file__).parents[1] / "CONTRIBUTING.md").read_text()
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "validate(" in block]
    exec(block, {"MySchedule": names["Low"]})
    names["Low"].sample = lambda self, context, generator: 2 * torch.rand(context.rows, generator=generator)
    with pytest.raises(InputError, match="schedule low: a rate of"):
        exec(block, {"MySchedule": names["Low"]})
