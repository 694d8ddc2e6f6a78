"""Work in pieces, beside its output."""

from pathlib import Path

import pytest

from mdlm_min.run.errors import InputError
from mdlm_min.run.partial import Partial, one_writer


def test_what_was_added_is_found_again_until_the_output_is_written(tmp_path):
    output = tmp_path / "out"
    first = Partial(output, {"seed": 0})
    assert list(tmp_path.iterdir()) == []  # an attempt that did no work leaves nothing
    first.add({3: {"text": "a\u2028b"}})
    first.add({0: {"text": "c"}, 1: {"text": "d"}})
    again = Partial(output, {"seed": 0})
    assert again.records == first.records == {3: {"text": "a\u2028b"}, 0: {"text": "c"}, 1: {"text": "d"}}
    again.finish("all of it")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert output.read_text() == "all of it"
    assert Partial(output, {"seed": 1}).records == {}


@pytest.mark.parametrize("end", range(1, 40))
def test_a_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path, end):
    partial = Partial(tmp_path / "out", {"seed": 0})
    partial.add({0: {"text": "kept"}})
    whole = (tmp_path / "out.partial").read_bytes()
    partial.add({1: {"text": "torn in the middle"}})
    torn = (tmp_path / "out.partial").read_bytes()[: len(whole) + end]
    (tmp_path / "out.partial").write_bytes(torn)
    again = Partial(tmp_path / "out", {"seed": 0})
    assert again.records == {0: {"text": "kept"}}
    again.add({1: {"text": "again"}})
    assert Partial(tmp_path / "out", {"seed": 0}).records == {0: {"text": "kept"}, 1: {"text": "again"}}


@pytest.mark.parametrize(
    "text", ["not ours\n", "3\n", "{}\n", "[" * 100_000 + "\n", '{"configuration": {"seed": 0}}\n{"item": 1}\n', b"\xff\n"]
)
def test_a_damaged_one_is_refused_and_kept(tmp_path, text):
    path = tmp_path / "out.partial"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = path.read_bytes()
    with pytest.raises(InputError, match="output: .*out.partial .*; delete it to start again") as error:
        Partial(tmp_path / "out", {"seed": 0})
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before


def test_a_device_has_none(tmp_path):
    partial = Partial(Path("/dev/null"), {"seed": 0})
    partial.add({0: {"text": "a"}})
    partial.finish("a")
    assert not Path("/dev/null.partial").exists()


def test_a_changed_byte_is_damage_wherever_it_is(tmp_path):
    path = tmp_path / "out.partial"
    Partial(tmp_path / "out", {"seed": 0}).add({0: {"seconds": 1.0, "said": "a"}, 1: {"seconds": 2.5, "said": "b"}})
    whole = path.read_bytes()
    for place in range(len(whole) - 1):  # without the last line end the last line is a torn one
        for changed in (whole[place] ^ 1, ord("9"), ord("\n")):
            if changed != whole[place]:
                path.write_bytes(whole[:place] + bytes([changed]) + whole[place + 1 :])
                with pytest.raises(InputError, match="out.partial (is damaged in line|cannot be read|holds work of another)"):
                    Partial(tmp_path / "out", {"seed": 0})
    path.write_bytes(whole)
    assert Partial(tmp_path / "out", {"seed": 0}).records == {0: {"seconds": 1.0, "said": "a"}, 1: {"seconds": 2.5, "said": "b"}}


def test_what_is_held_in_memory_only_does_not_spoil_the_file(tmp_path):
    partial = Partial(tmp_path / "out", {"seed": 0})
    partial.records["secret"] = "never written"
    partial.add({0: "a"})
    partial.add({1: "b"})
    assert Partial(tmp_path / "out", {"seed": 0}).records == {0: "a", 1: "b"}


def test_an_output_has_one_writer(tmp_path):
    def second():
        with one_writer(tmp_path / "out"):
            pass

    with one_writer(tmp_path / "out"), one_writer(tmp_path / "other"), one_writer(Path("/dev/stdout")):  # noqa: SIM117
        with pytest.raises(InputError, match=f"{tmp_path / 'out'} is in use by process"):
            second()
    assert list(tmp_path.iterdir()) == []
