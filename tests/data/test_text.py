import gzip
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mdlm_min.data import text
from mdlm_min.data.text import Source, TextConfig, TextData, check_tokens, find_sources, load_text, load_tokens
from mdlm_min.data.tokenizer import GPT2, Bytes, TrainedBPE, Words, find_tokenizer
from mdlm_min.run.errors import InputError

LINES = [f"line {number} of a small corpus, with a word or two more\n" for number in range(400)]


@pytest.fixture
def corpus(tmp_path):
    """A folder with the three splits."""
    for name, lines in (("wiki.train.txt", LINES[:300]), ("wiki.valid.txt", LINES[300:350]), ("wiki.test.txt", LINES[350:])):
        (tmp_path / name).write_text("".join(lines))
    return tmp_path


def test_splits_are_found_by_name_and_tokens_are_the_text(corpus):
    data = load_text(TextConfig(str(corpus), "bytes", 16))
    assert bytes(data.splits["train"].tolist()).decode() == "".join(LINES[:300])
    assert bytes(data.splits["test"].tolist()).decode() == "".join(LINES[350:])
    assert data.vocab_size == 256


def test_a_gzip_file_is_the_same_corpus(corpus, tmp_path):
    plain = load_text(TextConfig(str(corpus), "bytes", 16)).sha256
    for path in list(corpus.glob("*.txt")):
        path.with_suffix(".txt.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load_text(TextConfig(str(corpus), "bytes", 16)).sha256 == plain


def test_one_file_is_cut_at_line_ends_without_loss(tmp_path):
    path = tmp_path / "all.txt"
    path.write_text("".join(LINES))
    sources = find_sources(str(path))
    parts = {split: "".join(source.chunks()) for split, source in sources.items()}
    assert "".join(parts.values()) == "".join(LINES)
    assert all(part.endswith("\n") for part in parts.values())
    assert len(parts["train"]) == pytest.approx(0.9 * len("".join(LINES)), rel=0.02)
    assert len(parts["test"]) > 0 < len(parts["valid"])


@pytest.mark.parametrize("content", ["é" * 1005, "a" + "✓" * 1003, "🎲" * 401])
def test_a_text_without_line_ends_is_cut_between_characters(tmp_path, content):
    path = tmp_path / "all.txt"
    path.write_text(content)
    parts = {split: "".join(source.chunks()) for split, source in find_sources(str(path)).items()}
    assert "".join(parts.values()) == content
    assert len(parts["train"]) == pytest.approx(0.9 * len(content), abs=2)


@pytest.mark.parametrize("chunk", [1, 7, 64, 10**6])
def test_chunks_join_to_the_text_whatever_their_size(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(text, "CHUNK", chunk)
    content = "ünïcödé ✓ line\nsecond\n\nlast without an end"
    (tmp_path / "a.txt").write_text(content)
    (tmp_path / "b.txt").write_text("more\n")
    chunks = list(Source((tmp_path / "a.txt", tmp_path / "b.txt")).chunks())
    assert "".join(chunks) == content + "\nmore\n"  # a file starts a line
    assert "".join(Source((tmp_path / "b.txt", tmp_path / "a.txt")).chunks()) == "more\n" + content
    assert "".join(Source((tmp_path / "a.txt", tmp_path / "b.txt"), len(content.encode()), None).chunks()) == "\nmore\n"


@pytest.mark.parametrize("chunk", [3, 8, 64, 10**6])
def test_a_text_of_windows_is_the_same_text(tmp_path, monkeypatch, chunk):
    content = "one\ntwo\n\n \rthree ✓\n" * 9 + "end\r"
    (tmp_path / "a.txt").write_bytes(content.encode())
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode())
    monkeypatch.setattr(text, "CHUNK", chunk)
    assert "".join(Source((tmp_path / "a.txt",)).chunks()) == "".join(Source((tmp_path / "b.txt",)).chunks()) == content
    monkeypatch.undo()
    plain, other = (find_sources(str(tmp_path / name)) for name in ("a.txt", "b.txt"))
    assert all(plain[split].sha256() == other[split].sha256() for split in plain)


@pytest.mark.parametrize("chunk", [1, 50, 10**6])
def test_json_lines_are_their_records_texts_a_line_each(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(text, "CHUNK", chunk)
    records = [{"text": line.rstrip("\n"), "id": number} for number, line in enumerate([*LINES, "é ✓\n"])]
    lines = "\n\n".join(map(json.dumps, records))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "c4.txt").write_text("".join([*LINES, "é ✓\n"]))
    (tmp_path / "c4.jsonl").write_text(lines)
    (tmp_path / "c4.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    plain = {split: source.sha256() for split, source in find_sources(str(tmp_path / "plain")).items()}
    for path in (tmp_path / "c4.jsonl", tmp_path / "c4.jsonl.gz"):
        assert {split: source.sha256() for split, source in find_sources(str(path)).items()} == plain


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("plain text", "no JSON"),
        ('{"text": "a", "text": "b"}', "no JSON"),
        ('{"content": "a"}', "the record has no text in the field text"),
        ('{"text": 3}', "the record has no text"),
        ('["text"]', "the record has no text"),
        ('{"text": "\\ud800"}', "the record has no text"),
    ],
)
def test_json_lines_without_text_are_refused_by_line(tmp_path, line, message):
    (tmp_path / "c4.jsonl").write_text(f'{{"text": "good"}}\n\n{line}\n')
    with pytest.raises(InputError, match=rf'c4.jsonl line 3: {message}.*allowed: a record {{"text": "..."}} a line'):
        find_sources(str(tmp_path / "c4.jsonl"))


def test_batches_are_a_function_of_seed_and_step(corpus):
    data = load_text(TextConfig(str(corpus), "bytes", 16))
    assert torch.equal(data.batch("train", 16, 8, 0, 5), data.batch("train", 16, 8, 0, 5))
    assert not torch.equal(data.batch("train", 16, 8, 0, 5), data.batch("train", 16, 8, 0, 6))
    assert not torch.equal(data.batch("train", 16, 8, 0, 5), data.batch("train", 16, 8, 1, 5))
    whole = bytes(data.splits["train"].tolist())
    assert all(bytes(row.tolist()) in whole for row in data.batch("train", 16, 8, 0, 5))


def test_every_place_of_the_split_can_start_a_block():
    data = TextData({"train": np.arange(10, dtype=np.uint16)}, 10, "")
    starts = data.batch("train", 4, 2000, 0, 0)[:, 0]
    assert sorted(set(starts.tolist())) == list(range(7))
    assert set(TextData(data.splits, 10, "", stride=5).batch("train", 5, 200, 0, 0)[:, 0].tolist()) == {0, 5}


def test_blocks_cover_the_split_in_order():
    data = TextData({"test": np.arange(11, dtype=np.uint16)}, 11, "")
    assert data.blocks("test", 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_unigram_model_is_a_distribution_by_counts():
    data = TextData({"train": np.array([0, 0, 2], dtype=np.uint16)}, 4, "")
    torch.testing.assert_close(data.unigram_nll().exp().reciprocal(), torch.tensor([3, 1, 2, 1]) / 7)


def test_tokens_are_written_once_and_mapped(corpus, monkeypatch):
    config = TextConfig(str(corpus), "bytes", 16)
    first = load_text(config)
    monkeypatch.setattr(text, "_write_tokens", lambda *_: pytest.fail("written a second time"))
    second = load_text(config)
    assert isinstance(second.splits["train"], np.memmap)
    assert first.sha256 == second.sha256


def alter_a_byte(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "of another type": lambda path: np.save(path, np.zeros(9)) if path.suffix == ".npy" else path.write_text("[]"),
    "garbage": lambda path: path.write_bytes(b"\xff\x00garbage" * 9),
    "altered in one byte": alter_a_byte,
    "without its hash": lambda path: path.with_name(f"{path.name}.sha256").unlink(),
    "with a damaged hash": lambda path: path.with_name(f"{path.name}.sha256").write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["tokens/*.npy", "tokenizers/*.json"])
def test_a_damaged_file_of_the_cache_is_made_again_with_one_line(corpus, tmp_path, monkeypatch, capsys, kind, damage):
    monkeypatch.setenv("MDLM_CACHE", str(tmp_path / "cache"))
    config = TextConfig(str(corpus), "bpe:300", 16)
    whole = load_text(config)
    before = {split: np.array(tokens) for split, tokens in whole.splits.items()}
    assert capsys.readouterr().err == ""
    path = sorted((tmp_path / "cache").glob(kind))[0]
    DAMAGE[damage](path)
    again = load_text(config)
    assert capsys.readouterr().err == f"{path}: damaged, or without its SHA-256; it is made again\n"
    assert again.sha256 == whole.sha256
    assert all(np.array_equal(again.splits[split], tokens) for split, tokens in before.items())
    load_text(config)
    assert capsys.readouterr().err == ""
    assert not list((tmp_path / "cache").rglob(".*"))  # no temporary file stays


def test_a_cache_that_cannot_be_written_is_one_line(corpus, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MDLM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="cannot write .*/file/cache/tokens/.*: Not a directory") as error:
        load_text(TextConfig(str(corpus), "bytes", 16))
    assert "\n" not in str(error.value)


def test_a_cache_on_a_full_disk_is_one_line_and_keeps_nothing(corpus, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("MDLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(np.lib.format, "open_memmap", full)
    with pytest.raises(InputError, match="tokens/.*npy: No space left on device; allowed: MDLM_CACHE set to a folder"):
        load_text(TextConfig(str(corpus), "bytes", 16))
    assert not list((tmp_path / "cache" / "tokens").iterdir())


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "\ud800", "/dev/null/x", "x/" * 3000])
def test_a_name_that_no_file_can_have_is_refused_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setenv("MDLM_DATA", str(tmp_path))
    with pytest.raises(InputError, match="data.corpus: .* is neither a path nor a known name") as error:
        find_sources(name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_token_ids_beyond_16_bits_are_kept(corpus):
    ids = np.array([0, 65_535, 65_536, 69_999])
    wide = SimpleNamespace(vocab_size=70_000, identity="wide", encode=lambda _: ids)
    assert load_tokens(Source((corpus / "wiki.test.txt",)), "hash", wide).tolist() == ids.tolist()


def test_a_changed_corpus_or_tokenizer_has_another_hash(corpus):
    before = load_text(TextConfig(str(corpus), "bytes", 16)).sha256
    assert load_text(TextConfig(str(corpus), "bpe:300", 16)).sha256 != before
    (corpus / "wiki.test.txt").write_text("".join(LINES[350:])[:-2] + "!\n")
    assert load_text(TextConfig(str(corpus), "bytes", 16)).sha256 != before


def test_a_trained_bpe_has_its_size_and_loses_nothing(corpus):
    data = load_text(TextConfig(str(corpus), "bpe:300", 16))
    assert data.vocab_size == 300
    assert len(data.splits["train"]) < len("".join(LINES[:300])) / 2
    from mdlm_min.data.tokenizer import TrainedBPE, train_bpe

    tokenizer = TrainedBPE(train_bpe(LINES[:300], 300))
    assert tokenizer.decode(tokenizer.encode("line 7 of ünknown ✓\n").tolist()) == "line 7 of ünknown ✓\n"


def test_gpt2_tokens_are_those_of_gpt2(data_folder):
    from mdlm_min.data.tokenizer import GPT2

    tokenizer = GPT2(data_folder / "gpt2-bpe")
    assert tokenizer.encode("Hello world, it's 2026!").tolist() == [15496, 995, 11, 340, 338, 1160, 2075, 0]
    assert tokenizer.decode(tokenizer.encode("ünïcödé ✓\n\n x").tolist()) == "ünïcödé ✓\n\n x"


def test_wikitext_has_its_published_size(data_folder):
    source = find_sources("wikitext-2")["test"]
    words = sum(len(chunk.split()) for chunk in source.chunks())
    assert words == 241_211


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"abc\0def\n", "a zero byte at 3: this is no text"),
        (b"caf\xe9 au lait\n", "not UTF-8 text"),
        (b"too short\n" * 3, "a block is 64 tokens, but the train split"),
    ],
)
def test_what_is_no_corpus_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "corpus.txt").write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        load_text(TextConfig(str(tmp_path / "corpus.txt"), "bytes", 64))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:30] + bytes(20) + data[50:]])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    text = "\n".join(str(number**3) for number in range(1000))
    (tmp_path / "corpus.txt.gz").write_bytes(damage(gzip.compress(text.encode())))
    with pytest.raises(InputError, match=r"corpus.txt.gz: cannot be read"):
        load_text(TextConfig(str(tmp_path / "corpus.txt.gz"), "bytes", 4))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"corpus": "no-such-corpus"}, "data.corpus: 'no-such-corpus' is neither a path nor a known name; allowed: a path, "
                                       "wikitext-2"),
        ({"tokenizer": "letters"}, "data.tokenizer: 'letters' is unknown; allowed: bytes, gpt2, bpe:SIZE"),
        ({"tokenizer": "bpe:12"}, "data.tokenizer: 'bpe:12' is unknown"),
        ({"tokenizer": "words"}, "data.tokenizer: 'words' has no fixed vocabulary"),
    ],
)  # fmt: skip
def test_unknown_names_are_refused(corpus, config, message):
    with pytest.raises(InputError, match=message):
        load_text(TextConfig(**{"corpus": str(corpus), "length": 16, **config}))


def test_gpt2_without_a_network_says_what_to_set(corpus, monkeypatch):
    import tiktoken

    def offline(_):
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(InputError, match="set MDLM_DATA to a folder that holds encoder.json and vocab.bpe in gpt2-bpe/"):
        load_text(TextConfig(str(corpus), "gpt2", 16))


def test_a_folder_without_one_split_is_refused(corpus):
    (corpus / "wiki.valid.txt").unlink()
    with pytest.raises(InputError, match="no file whose name says 'valid'"):
        find_sources(str(corpus))


def test_a_split_is_a_whole_word_of_the_name(tmp_path):
    """latest.txt and contest.txt are no test files, constrained.txt no training text: one text is never in two splits by
    accident."""
    for name in ("latest.txt", "contest-2.txt", "constrained.txt", "invalid.txt"):
        (tmp_path / name).write_text("".join(LINES))
    sources = find_sources(str(tmp_path))
    assert all(len(source.files) == 4 for source in sources.values())  # no name says a split: cut from all of it
    texts = {split: "".join(source.chunks()) for split, source in sources.items()}
    assert "".join(texts.values()) == "".join(LINES) * 4


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "valid.txt", "test.txt"),
        ("wiki.TRAIN.tokens", "wiki.validation.tokens", "wiki.test.tokens"),
        ("train-00000-of-00001.txt", "val_2.txt", "test3.txt.gz"),
        ("my_train.raw", "my_dev.raw", "my_test.raw"),
    ],
)
def test_the_words_for_the_splits(tmp_path, names):
    for name in (*names, "README.txt"):
        (tmp_path / name).write_text("".join(LINES))
    assert [source.files for source in find_sources(str(tmp_path)).values()] == [(tmp_path / name,) for name in names]


@pytest.mark.parametrize("name", ["train_test_valid.txt", "train-dev.txt", "test.valid.txt.gz"])
def test_a_name_that_says_two_splits_is_refused(corpus, name):
    (corpus / name).write_text("".join(LINES))
    with pytest.raises(
        InputError, match=f"data.corpus: the name of .*{name} says .* and .*; allowed: one of train, valid, test, or none"
    ):
        find_sources(str(corpus))


def test_altered_gpt2_files_are_refused(tmp_path, monkeypatch, corpus):
    (tmp_path / "gpt2-bpe").mkdir()
    for name in ("encoder.json", "vocab.bpe"):
        (tmp_path / "gpt2-bpe" / name).write_text("{}")
    monkeypatch.setenv("MDLM_DATA", str(tmp_path))
    with pytest.raises(InputError, match="the file released with GPT-2 has 1ce1664773c5"):
        load_text(TextConfig(str(corpus), "gpt2", 16))


def test_a_token_beyond_the_vocabulary_is_found():
    with pytest.raises(InputError, match=r"valid: token id 9 at 2 is beyond the vocabulary; allowed: 0 to 8"):
        check_tokens(np.array([1, 8, 9, 9], dtype=np.uint16), 9, "valid")


def test_without_a_hub_one_line_says_which_path_to_give(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def offline(*_, **__):
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(InputError, match="set MDLM_DATA to a folder that holds wikitext-2/ with its train, valid and test files"):
        find_sources("wikitext-2")


def test_a_data_folder_that_is_none_is_refused_before_the_hub_is_asked(monkeypatch, tmp_path):
    datasets, asked = pytest.importorskip("datasets"), []

    def offline(*names, **_):
        asked.append(names)
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.setenv("MDLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MDLM_DATA", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="MDLM_DATA: '.*absent' is not a folder; allowed: a folder of corpora"):
        load_text(TextConfig(corpus="wikitext-2"))
    assert asked == []
    monkeypatch.setenv("MDLM_DATA", str(tmp_path))
    with pytest.raises(InputError, match=f"hub .ConnectionError., and MDLM_DATA .{tmp_path}. lacks it; set MDLM_DATA to"):
        load_text(TextConfig(corpus="wikitext-2"))


def test_what_the_hub_gives_is_kept_as_plain_files(monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": ["", " = Title = \n", " words \n"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: dict.fromkeys(("train", "validation", "test"), rows))
    sources = find_sources("wikitext-103-raw")
    assert "".join(sources["valid"].chunks()) == " = Title = \n words \n"
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("asked a second time"))
    assert find_sources("wikitext-103-raw").keys() == sources.keys()


def test_two_processes_may_write_the_same_tokens(corpus):
    program = "from mdlm_min.data.text import *; import sys; print(load_text(TextConfig(sys.argv[1], 'bpe:300', 16)).sha256)"
    both = [subprocess.Popen([sys.executable, "-c", program, str(corpus)], stdout=subprocess.PIPE) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert outputs[0] == outputs[1] != b""


def as_json(tokenizer):
    return TrainedBPE(tokenizer.to_json())


ODD = "It's  a\ttest: 3,141 \u00e9\u4e16\U0001f600 don't\r\n\n  \x00\x7f <|endoftext|> end "


def test_bytes_as_a_tokenizer_json_give_the_same_tokens():
    written = as_json(Bytes())
    assert written.encode(ODD).tolist() == Bytes().encode(ODD).tolist()
    assert written.vocab_size == 256
    for byte in range(256):
        assert written.decode([byte]) == Bytes().decode([byte])
    assert written.decode(ODD.encode()) == ODD


@pytest.mark.slow
def test_gpt2_as_a_tokenizer_json_gives_the_same_tokens(data_folder):
    ours = GPT2(data_folder / "gpt2-bpe")
    written = as_json(ours)
    assert written.vocab_size == ours.vocab_size
    text = ODD + gzip.decompress((data_folder / "wikitext-2" / "wiki.test.tokens.gz").read_bytes()).decode()[:200_000]
    assert written.encode(text).tolist() == ours.encode(text).tolist()
    assert written.decode(ours.encode(ODD)) == ODD
    assert written.decode([31373, 50256, 31373]) == ours.decode([31373, 50256, 31373]) == "hellohello"


def test_words_have_no_tokenizer_json():
    with pytest.raises(InputError, match="'words' grows as it reads"):
        Words().to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"truncation": {"max_length": 2, "strategy": "LongestFirst", "direction": "Right", "stride": 0}},
        {"truncation": {"max_length": 2, "strategy": "LongestFirst", "direction": "Right", "stride": 5}},
        {"padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}},
    ],
)
def test_a_tokenizer_json_does_not_cut_or_pad_a_text(tmp_path, change):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(Bytes().to_json()) | change))
    tokenizer = find_tokenizer(str(path), list, "", tmp_path, None)
    assert tokenizer.decode(tokenizer.encode("zabc")) == "zabc"
    assert len(tokenizer.encode("zabc")) == 4


def test_a_tokenizer_s_size_is_that_of_its_largest_id(tmp_path):
    text, path = json.loads(Bytes().to_json()), tmp_path / "tokenizer.json"
    text["model"]["vocab"]["a"] = 5000
    path.write_text(json.dumps(text))
    assert find_tokenizer(str(path), list, "", tmp_path, None).vocab_size == 5001
    text["model"]["vocab"].clear()
    path.write_text(json.dumps(text))
    with pytest.raises(InputError, match="tokenizer.json cannot be read .it has no tokens"):
        find_tokenizer(str(path), list, "", tmp_path, None)


def test_a_byte_level_tokenizer_needs_a_token_for_every_byte_of_utf_8(tmp_path):
    text, path = json.loads(Bytes().to_json()), tmp_path / "tokenizer.json"
    for letter in [letter for letter, byte in text["model"]["vocab"].items() if byte in (0xC0, 0xFF)]:  # in no UTF-8
        del text["model"]["vocab"][letter]
    path.write_text(json.dumps(text))
    assert find_tokenizer(str(path), list, "", tmp_path, None).decode(b"za") == "za"
    del text["model"]["vocab"]["z"]
    path.write_text(json.dumps(text))
    with pytest.raises(InputError, match=f"it is byte-level, but has no token for byte {ord('z')}"):
        find_tokenizer(str(path), list, "", tmp_path, None)


def test_a_text_that_is_there_only_compressed_is_named(tmp_path):
    (tmp_path / "corpus.txt.gz").write_bytes(gzip.compress(b"a text"))
    with pytest.raises(InputError, match=r"known name \(.*corpus.txt.gz is there\); allowed: a path"):
        find_sources(str(tmp_path / "corpus.txt"))
