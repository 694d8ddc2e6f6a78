import gzip
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_min.data import samples as module
from mdlm_min.data.exercises import json_lines
from mdlm_min.data.samples import HubRecords, JsonLines, Samples, SamplesConfig, TokenArray, open_data
from mdlm_min.data.tokenizer import Bytes, byte_level_json, find_tokenizer
from mdlm_min.run.errors import InputError, RunError

END = 300


class Numbers:
    """Documents whose tokens number themselves, so that a token lost or seen twice shows."""

    def __init__(self, sizes):
        self.sizes = sizes

    def read(self, place):
        start = sum(self.sizes[: place["record"]]) if place else 0
        for index in range(place["record"] if place else 0, len(self.sizes)):
            size = self.sizes[index]
            yield (np.arange(start, start + size) if size >= 0 else None), {"record": index + 1}
            start += max(size, 0)


def taken(samples, count):
    batch = samples.take(count)
    return [tuple(row[:length].tolist()) for row, length in zip(batch.tokens, batch.lengths, strict=True)]


def config(**changes):
    return SamplesConfig(**{"length": 7, "random_lengths": 0.0, **changes})


def test_samples_are_the_text_in_order_and_begin_again_at_its_end():
    samples = Samples(config(length=5), Numbers([3, 0, 4, 6]), END, 0)
    tokens = [token for sample in taken(samples, 6) for token in sample]
    assert tokens == [index % 13 for index in range(30)]
    assert samples.epoch == 2
    assert samples.read == 11  # two whole passes of four records, and three of the third


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=8).filter(any),
    st.sampled_from([1, 4, 9]), st.sampled_from([0.0, 0.5]), st.integers(0, 25), st.integers(1, 25),
)  # fmt: skip
def test_no_sample_is_lost_or_seen_twice_after_a_resume(sizes, shuffle, random_lengths, before, after):
    settings = config(shuffle=shuffle, random_lengths=random_lengths)
    whole = taken(Samples(settings, Numbers(sizes), END, 3), before + after)
    first = Samples(settings, Numbers(sizes), END, 3)
    assert taken(first, before) == whole[:before] if before else True
    state = json.loads(json.dumps(first.state()))
    second = Samples(settings, Numbers(sizes), END, 3)
    taken(second, 2)  # where it stands before makes no difference
    second.restore(state)
    assert taken(second, after) == whole[before:]
    assert (second.read, second.corrupt, second.epoch) == resumed_counts(settings, sizes, before + after)


def resumed_counts(settings, sizes, count):
    samples = Samples(settings, Numbers(sizes), END, 3)
    taken(samples, count)
    return samples.read, samples.corrupt, samples.epoch


def test_a_shuffled_window_holds_each_of_its_samples_once():
    plain = taken(Samples(config(), Numbers([500]), END, 0), 12)
    mixed = taken(Samples(config(shuffle=6), Numbers([500]), END, 0), 12)
    assert mixed != plain
    assert sorted(mixed[:6]) == plain[:6]
    assert sorted(mixed[6:]) == plain[6:]


@pytest.mark.parametrize("changes", [{"shuffle": 6}, {"random_lengths": 0.5}])
def test_another_seed_gives_another_order_and_other_lengths(changes):
    one, two = (taken(Samples(config(**changes), Numbers([500]), END, seed), 12) for seed in (0, 1))
    assert one != two


def test_a_hundredth_of_the_samples_is_short_and_no_token_is_lost_to_it():
    samples = Samples(config(length=100, random_lengths=0.01), Numbers([400_000]), END, 1)
    found = taken(samples, 3000)
    short = [sample for sample in found if len(sample) < 100]
    assert 10 <= len(short) <= 55  # Binomial(3000, .0099), far tails
    assert 25 < sum(map(len, short)) / len(short) < 75
    assert [token for sample in found for token in sample] == list(range(sum(map(len, found))))


def test_beyond_a_short_sample_stand_end_tokens():
    batch = Samples(config(random_lengths=0.9), Numbers([100]), END, 0).take(8)
    for row, length in zip(batch.tokens, batch.lengths, strict=True):
        assert (row[length:] == END).all()
        assert (row[:length] != END).all()


def write_records(path, records):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as file:
        for record in records:
            file.write(record if isinstance(record, bytes) else json.dumps(record).encode())
            file.write(b"\n")


def test_records_are_read_file_by_file_each_closed_by_the_end_token(tmp_path):
    write_records(tmp_path / "b.jsonl", [{"text": "cc"}])
    write_records(tmp_path / "a.jsonl.gz", [{"text": "a"}, {"text": "bb\u2028b"}])  # a line separator inside a string
    documents = JsonLines((tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl"), "text", Bytes(), END)
    read = [(bytes(tokens[:-1].astype(np.uint8)).decode(), tokens[-1]) for tokens, _ in documents.read(None)]
    assert read == [("a", END), ("bb\u2028b", END), ("cc", END)]
    places = [place for _, place in documents.read(None)]
    assert [len(list(documents.read(place))) for place in places] == [2, 1, 0]


def test_corrupt_records_are_counted_and_skipped(tmp_path):
    corrupt = [b"{no json", {"other": 1}, {"text": 5}, b"\xff\xfe", b"[" * 200_000, b'{"text": "half \\ud800"}']
    write_records(tmp_path / "a.jsonl", [{"text": "abc"}, *corrupt, {"text": "de"}])
    samples = Samples(config(length=2, corrupt=0.9), JsonLines((tmp_path / "a.jsonl",), "text", Bytes(), END), END, 0)
    samples.take(3)
    assert (samples.read, samples.corrupt) == (8, 6)
    resumed = Samples(config(length=2, corrupt=0.9), JsonLines((tmp_path / "a.jsonl",), "text", Bytes(), END), END, 0)
    resumed.restore(json.loads(json.dumps(samples.state())))
    for one in (samples, resumed):
        one.take(9)
    assert (resumed.read, resumed.corrupt, resumed.epoch) == (samples.read, samples.corrupt, samples.epoch)
    assert resumed.corrupt > 6


def test_an_empty_line_is_no_record(tmp_path):
    write_records(tmp_path / "a.jsonl", [b"", {"text": "ab"}, b" ", {"text": "c"}, b""])
    documents = JsonLines((tmp_path / "a.jsonl",), "text", Bytes(), END)
    found = list(documents.read(None))
    assert [tokens.tolist() for tokens, _ in found] == [[97, 98, END], [99, END]]
    assert [tokens.tolist() for tokens, _ in documents.read(found[0][1])] == [[99, END]]


def test_a_gz_that_is_damaged_inside_is_named(tmp_path):
    write_records(tmp_path / "a.jsonl.gz", [{"text": str(number**3)} for number in range(1000)])
    data = (tmp_path / "a.jsonl.gz").read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(data[:60] + bytes(40) + data[100:])
    with pytest.raises(InputError, match="a.jsonl.gz: cannot be read"):
        list(JsonLines((tmp_path / "a.jsonl.gz",), "text", Bytes(), END).read(None))
    with pytest.raises(InputError, match="a.jsonl.gz: cannot be read"):
        list(json_lines(tmp_path / "a.jsonl.gz"))


def test_a_plain_text_has_no_records_to_hold_out(tmp_path):
    (tmp_path / "a.txt").write_text("one line of text\n" * 100)
    with pytest.raises(InputError, match=r"data.held_out: 2 is for records; plain text has a split to validate on: use 0"):
        open_data(config(source=str(tmp_path / "a.txt"), held_out=2))
    with pytest.raises(InputError, match="data.field: 'body' is for records; plain text has no fields: leave it 'text'"):
        open_data(config(source=str(tmp_path / "a.txt"), field="body"))
    assert len(open_data(config(source=str(tmp_path / "a.txt"))).valid)


def test_half_a_character_is_corrupt_for_a_tokenizer_json_too(tmp_path):
    """The library of such tokenizers has no bytes for it, and raises what it raises for a text that is none."""
    (tmp_path / "tokenizer.json").write_text(byte_level_json({bytes([byte]): byte for byte in range(256)}))
    letters = find_tokenizer(str(tmp_path / "tokenizer.json"), list, "", tmp_path, None)
    write_records(tmp_path / "a.jsonl", [b'{"text": "a\\ud800"}', {"text": "ab"}])
    documents = JsonLines((tmp_path / "a.jsonl",), "text", letters, END)
    assert [None if tokens is None else tokens.tolist() for tokens, _ in documents.read(None)] == [None, [97, 98, END]]


def test_too_many_corrupt_records_stop_the_run(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"text": "abc"}] * 500 + [b"x"] * 400)
    samples = Samples(config(length=4, corrupt=0.01), JsonLines((tmp_path / "a.jsonl",), "text", Bytes(), END), END, 0)
    with pytest.raises(RunError, match=r"11 of the first 511 records have no text in 'text'; data.corrupt = 0.01"):
        samples.take(2000)


def test_records_held_out_are_never_trained_on(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"text": "a" * 30}, {"text": "b" * 30}, {"text": "c" * 30}, {"text": "d" * 10}])
    data = open_data(config(source=str(tmp_path), held_out=2, length=12))
    assert data.vocab_size == 258
    assert set(torch.cat((data.valid, data.test)).flatten().tolist()) == {ord("a"), ord("b"), data.end_token}
    assert set(data.samples(0).take(40).tokens.flatten().tolist()) == {ord("c"), ord("d"), data.end_token}


def test_the_first_half_of_what_is_held_out_is_to_validate_on_and_the_prior_counts_both(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"text": text} for text in ("aaa", "bbb", "c")])
    data = open_data(config(source=str(tmp_path), held_out=2, length=4))
    assert data.valid.tolist() == [[*b"aaa", data.end_token]]
    assert data.test.tolist() == [[*b"bbb", data.end_token]]
    assert data.prior[ord("a")] == data.prior[ord("b")] < data.prior[ord("c")]


def test_the_hash_is_of_the_records_the_field_and_the_tokenizer(tmp_path):
    def digest(letter, **changes):
        write_records(tmp_path / "a.jsonl", [{"text": letter * 9, "other": letter * 9}] * 4)
        return open_data(config(source=str(tmp_path / "a.jsonl"), held_out=4, length=4, **changes)).sha256

    released = tokenizer_file(tmp_path / "released")
    assert digest("a") == digest("a")
    assert len({digest("a"), digest("b"), digest("a", field="other"), digest("a", tokenizer=released)}) == 4


def test_plain_text_has_its_own_splits_and_no_end_tokens_inside(tmp_path):
    (tmp_path / "train.txt").write_text("train " * 50)
    (tmp_path / "valid.txt").write_text("valid " * 50)
    (tmp_path / "test.txt").write_text("tests " * 50)
    data = open_data(config(source=str(tmp_path), length=10))
    assert bytes(data.samples(0).take(2).tokens.flatten().tolist()) == b"train train train tr"
    assert bytes(data.valid[0].tolist()) == b"valid vali"
    assert (data.mask_token, data.end_token, data.vocab_size) == (256, 257, 258)
    assert isinstance(data.documents, TokenArray)


def tokenizer_file(folder):
    import tokenizers
    from tokenizers import models, pre_tokenizers

    made = tokenizers.Tokenizer(
        models.WordLevel({"[unk]": 0, "one": 1, "two": 2, "<|mdm_mask|>": 3, "<|endoftext|>": 4}, "[unk]")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<|mdm_mask|>", "<|endoftext|>"])
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return str(folder)


def test_a_released_tokenizer_by_its_path_with_its_own_mask_and_end(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"text": "one two one two one two"}] * 4 + [{"text": "two <|mdm_mask|> one"}])
    folder = tokenizer_file(tmp_path / "released")
    settings = config(
        source=str(tmp_path / "a.jsonl"), tokenizer=folder, held_out=2, length=2, mask_token=3, end_token=4, vocab_size=8
    )
    data = open_data(settings)
    assert (data.mask_token, data.end_token, data.vocab_size) == (3, 4, 8)
    tokens = data.samples(0).take(11).tokens.flatten().tolist()
    assert tokens[:7] == [1, 2, 1, 2, 1, 2, 4]
    assert 3 not in tokens  # a text that spells out the mask holds none


def test_a_hub_data_set_is_streamed_and_resumed_by_datasets_own_state(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    write_records(tmp_path / "a.jsonl", [{"text": letter * 3} for letter in "abcdef"])
    real = datasets.load_dataset

    def opened(name, split, streaming):
        assert (name, split, streaming) == ("someone/somewhere", "train", True)
        return real("json", data_files=str(tmp_path / "a.jsonl"), split="train", streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", opened)
    documents = HubRecords("someone/somewhere", "text", Bytes(), END)
    whole = taken(Samples(config(length=5), documents, END, 0), 9)
    first = Samples(config(length=5), documents, END, 0)
    taken(first, 3)
    second = Samples(config(length=5), documents, END, 0)
    second.restore(json.loads(json.dumps(first.state())))
    assert taken(second, 6) == whole[3:]


def test_without_a_hub_the_message_says_what_to_give(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def refuse(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        InputError, match=r"data.source: 'mlfoundations/dclm-baseline-1.0' cannot be had .* give a folder of .jsonl"
    ):
        open_data(config(source="mlfoundations/dclm-baseline-1.0", held_out=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 1}, "data.length: 1 is not allowed"),
        ({"corrupt": 1.0}, "data.corrupt: 1.0 is not allowed"),
        ({"shuffle": 0}, "data.shuffle: 0 is not allowed; at least 1"),
        ({"tokenizer": "nothing"}, "data.tokenizer: 'nothing' is unknown"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        config(**changes)


def test_bad_sources_are_named(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"text": "abc"}])
    with pytest.raises(InputError, match=r"data.held_out: 1 records hold 4 tokens; at least 14 are needed"):
        open_data(config(source=str(tmp_path), held_out=1))
    with pytest.raises(InputError, match=r"data.tokenizer: 'bpe:300' is for plain text"):
        open_data(config(source=str(tmp_path), tokenizer="bpe:300"))
    with pytest.raises(InputError, match=r"data.vocab_size: 200 is not allowed"):
        open_data(config(source=str(tmp_path), vocab_size=200))
    with pytest.raises(InputError, match=r"data.mask_token: 5 is the end token too"):
        open_data(config(source=str(tmp_path), mask_token=5, end_token=5))
    samples = Samples(config(), Numbers([0, 0]), END, 0)
    with pytest.raises(InputError, match="holds no text"):
        samples.take(1)
    assert module.json_files(str(tmp_path / "none")) is None


def test_the_real_sample_of_web_documents_streams(data_folder):
    data = open_data(SamplesConfig("dclm-sample", length=128, held_out=20))
    batch = data.samples(0).take(64)
    assert int((batch.tokens == data.end_token).sum()) > 1
    assert len(data.valid) > 5
