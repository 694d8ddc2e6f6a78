import ast
import inspect
from pathlib import Path

import pytest

import mdlm_min


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
