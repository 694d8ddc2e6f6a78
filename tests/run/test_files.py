import pytest

from mdlm_min.run.errors import InputError
from mdlm_min.run.files import write_whole
from mdlm_min.run.run_folder import RunFolder, config_sha256, format_number


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    write_whole(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="table.csv: No space left on device"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-300, -2.5e17, 12345678901234567890.0, 3.0, float("inf"), float("nan")])
def test_numbers_are_written_so_that_they_read_back_the_same(value, tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 1.0, "value": value})
    read = folder.metrics()[0]["value"]
    assert read == value or (read != read and value != value)


def test_whole_numbers_have_no_point():
    assert format_number(2000.0) == "2000"


def test_the_hash_of_a_configuration_ignores_the_order_of_its_keys():
    assert (
        config_sha256({"a": 1, "b": {"c": 2, "d": 3}})
        == config_sha256({"b": {"d": 3, "c": 2}, "a": 1})
        != config_sha256({"a": 2})
    )
