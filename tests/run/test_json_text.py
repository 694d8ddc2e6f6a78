import pytest

from mdlm_min.run.json_text import parse_json


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": [1.5, [Infinity]]}', "[1, NaN]", "-Infinity", "1e999", '[{"a": -1e999}]'])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(text):
    with pytest.raises(ValueError, match="is no finite number"):
        parse_json(text)


def test_what_is_refused_is_named():
    with pytest.raises(ValueError, match="'score': nan is no finite number"):
        parse_json('{"score": NaN}')
    with pytest.raises(ValueError, match="'a' is given twice in one object"):
        parse_json('{"a": 1, "b": {"a": 2}, "a": 3}')


def test_finite_numbers_are_read():
    assert parse_json(b'{"a": [1, 2.5, {"b": -1e300}]}') == {"a": [1, 2.5, {"b": -1e300}]}
