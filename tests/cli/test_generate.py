"""mdlm generate, on a tiny released folder whose weights are random: what it says is what TextModel.generate says."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyte
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from mdlm_min.cli.generate import SHADE, picture
from mdlm_min.cli.main import main
from mdlm_min.data.chat import NAMES, ChatTemplate
from mdlm_min.data.tokenizer import Bytes, TrainedBPE
from mdlm_min.diffusion.sampling import SamplingConfig
from mdlm_min.model.llada import SpecialTokens, scaled
from mdlm_min.model.llada_weights import save_weights
from mdlm_min.model.transformer import Transformer
from mdlm_min.tasks.text_model import TextModel

LETTERS = 256
MASK, END, TURN = LETTERS, LETTERS + 1, LETTERS + 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LLaDA of 280 tokens: bytes, the special tokens of the chat template, and ids beyond."""
    path = tmp_path_factory.mktemp("llada")
    config = scaled(2, 2, 16, vocab_size=280, outputs=280, length=96)
    model = Transformer(config, torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.head.weight *= 6
    save_weights(path, model, SpecialTokens(mask=MASK, end=END, padding=END))
    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(NAMES))
    (path / "tokenizer.json").write_text(tokenizer.to_str())
    return path


def said(folder, *options, capsys):
    assert main(["generate", str(folder), *options]) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def expected(folder, prompt, config, seed=0, item=0, length=12, **rules):
    model = TextModel.load(folder)
    template = model.with_answer(prompt if isinstance(prompt, list) else model.before_gap(prompt), length)
    made = model.generate([template], config, seed, model.rules(**{"stop": (END,), **rules}), items=[item])
    answer = made.tokens[0, len(template) - length :].tolist()
    return model.decode(answer[: made.answers[0]]), made


OPTIONS = {
    (): {},
    ("--steps", "5", "--temperature", "1.5", "--seed", "3"): {"steps": 5, "temperature": 1.5, "seed": 3},
    ("--block-length", "4", "--remasking", "entropy"): {"block_length": 4, "remasking": "entropy"},
    ("--cfg-scale", "2", "--steps", "4"): {"cfg_scale": 2.0, "steps": 4},
    ("--threshold", "0.3"): {"threshold": 0.3},
    ("--factor", "2"): {"factor": 2.0},
    ("--cache", "dual", "--block-length", "4"): {"cache": "dual", "block_length": 4},
    ("--cache", "prefix", "--refresh", "2", "--block-length", "6"): {"cache": "prefix", "refresh": 2, "block_length": 6},
    ("--remasking", "ancestral", "--steps", "3"): {"remasking": "ancestral", "steps": 3},
}


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_every_setting_reaches_the_generation(folder, options, capsys):
    values = {"steps": 12, "temperature": 0.0, **OPTIONS[options]}
    seed = values.pop("seed", 0)
    config = SamplingConfig(**values)
    text, made = expected(folder, "the cat", config, seed)
    out, err = said(folder, "--prompt", "the cat", "--length", "12", *options, capsys=capsys)
    assert out == f"{text}\n"
    kind = "exact" if config.exact else "approximate"
    pattern = rf"NFE {made.passes[0]}, {made.tokens_per_pass:.2f} tokens per forward, [\d,.]+ tokens/s \({kind}\)\n"
    assert re.fullmatch(pattern, err)


def test_every_option_changes_what_is_said_or_what_it_takes(folder):
    """The check above would pass for settings that change nothing."""
    found = set()
    for values in OPTIONS.values():
        values = {"steps": 12, "temperature": 0.0, **values}
        text, made = expected(
            folder, "the cat", SamplingConfig(**{k: v for k, v in values.items() if k != "seed"}), values.get("seed", 0)
        )
        found.add((text, made.passes[0]))
    assert len(found) >= 7


def test_tokens_can_be_ruled_out(folder, capsys):
    config = SamplingConfig(steps=12, temperature=0.0)
    usual, made = expected(folder, "the cat", config)
    answer = made.tokens[0, len("the cat") :].tolist()
    for option, ids in (("--suppress", answer[:1]), ("--begin-suppress", answer[:1]), ("--defer", sorted(set(answer)))):
        text, _ = expected(folder, "the cat", config, **{option[2:].replace("-", "_"): ids})
        given = ",".join(map(str, ids))
        out, _ = said(folder, "--prompt", "the cat", "--length", "12", option, given, capsys=capsys)
        assert out == f"{text}\n" != f"{usual}\n"


@pytest.mark.parametrize(("blocks", "length"), [((), 89), (("--block-length", "8"), 88)])
def test_without_a_length_an_answer_is_what_the_model_reads_behind_the_prompt(folder, capsys, blocks, length):
    config = SamplingConfig(steps=length, temperature=0.0, block_length=8 if blocks else 0)
    text, _ = expected(folder, "the cat", config, length=length)
    out, _ = said(folder, "--prompt", "the cat", *blocks, capsys=capsys)
    assert out == f"{text}\n"


def test_an_answer_stops_at_the_end_token_unless_told_not_to(folder, capsys):
    options = ["--prompt", "x", "--length", "40", "--temperature", "9", "--steps", "40", "--remasking", "random"]
    model = TextModel.load(folder)
    lengths = set()
    for seed in range(12):
        _, err = said(folder, *options, "--seed", str(seed), "--block-length", "8", capsys=capsys)
        lengths.add(int(re.match(r"NFE (\d+)", err)[1]))
        made = model.generate(
            [model.with_answer(model.before_gap("x"), 40)],
            SamplingConfig("random", 40, 9.0, 8),
            seed,
            model.rules(suppress=(END,)),
        )
        out, err = said(folder, *options, "--seed", str(seed), "--block-length", "8", "--no-stop", capsys=capsys)
        assert err.startswith("NFE 40")
        assert out == model.decode([token for token in made.tokens[0, 1:].tolist() if token < LETTERS]) + "\n"
    assert min(lengths) < 40


def test_gaps_are_filled_in(folder, capsys):
    out, err = said(folder, "--infill", "ab__e[MASK]", capsys=capsys)
    model = TextModel.load(folder)
    template = model.template("ab__e[MASK]")
    made = model.generate([template], SamplingConfig(steps=3, temperature=0.0), 0, model.rules(suppress=(END,)))
    assert out == model.decode(made.tokens[0].tolist()) + "\n"
    assert out.startswith("ab")
    assert err.startswith("NFE 3,")


def test_a_deferred_token_that_stands_in_no_text_is_left_out_of_a_filled_text(folder, monkeypatch, capsys):
    monkeypatch.setattr(TrainedBPE, "decode", Bytes.decode)  # which has no text for an id above 255
    others = ",".join(str(token) for token in range(280) if token != 270)
    out, _ = said(folder, "--infill", "ab__", "--defer", "270", "--suppress", others, capsys=capsys)
    assert out == TextModel.load(folder).decode(TextModel.load(folder).before_gap("ab")) + "\n"


def test_a_block_longer_than_what_is_left_to_read_is_cut(folder, capsys):
    model = TextModel.load(folder)
    prompt = "a" * (model.length - 5)
    out, err = said(folder, "--prompt", prompt, "--block-length", "16", "--no-stop", "--suppress", "end", capsys=capsys)
    assert err.startswith("NFE 5,")
    assert len(out) == 6


def test_a_file_of_prompts_keeps_its_order_and_answers_do_not_depend_on_the_batch(folder, tmp_path, capsys):
    prompts = ["the cat sat on the mat", "a", "what is this?", "of", "one two three"]
    lines = [{"prompt": prompt, "id": number} for number, prompt in enumerate(prompts)] + [{"infill": "a__b"}]
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    found = []
    for batch in ("1", "4"):
        options = ["--prompts", str(path), "--output", str(output), "--length", "12", "--temperature", "1", "--batch", batch]
        _, err = said(folder, *options, capsys=capsys)
        found.append([json.loads(line) for line in output.read_text().splitlines()])
        assert re.match(r"NFE [\d.]+, [01].[0-9]{2} tokens per forward, ", err)
    assert found[0] == found[1]
    assert [{key: line[key] for key in line.keys() & {"prompt", "id", "infill"}} for line in found[0]] == lines
    for number, (prompt, line) in enumerate(zip(prompts, found[0], strict=False)):
        text, made = expected(folder, prompt, SamplingConfig(steps=12), item=number)
        assert (line["answer"], line["tokens"], line["nfe"]) == (text, made.answers[0], made.passes[0])


def test_chat_wraps_prompts_in_the_template_and_stops_at_the_end_of_the_turn(folder, tmp_path, capsys):
    chat = ChatTemplate(TextModel.load(folder).tokenizer)
    talk = [{"role": "user", "content": "hi"}]
    text, _ = expected(folder, chat.render(talk, True), SamplingConfig(steps=12, temperature=0.0), stop=(END, TURN))
    out, _ = said(folder, "--prompt", "hi", "--chat", "--length", "12", capsys=capsys)
    assert out == f"{text}\n"
    assert out != said(folder, "--prompt", "hi", "--length", "12", capsys=capsys)[0]
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text(json.dumps({"messages": talk}))
    said(folder, "--prompts", str(path), "--output", str(output), "--chat", "--length", "12", capsys=capsys)
    assert json.loads(output.read_text())["answer"] == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "a", "--length", "0"], "length: 0 is not allowed; at least 1"),
        (["--prompt", "a", "--length", "96"], "length: 96 is not allowed behind a prompt of 1 tokens; at most 96 together"),
        (["--prompt", "a", "--seed", "-1"], "seed: -1 is not allowed; a whole number from 0 to 2^63 - 1"),
        (["--prompt", "a", "--batch", "0"], "batch: 0 is not allowed; at least 1"),
        (["--prompt", "the " * 200], "prompt: it has "),
        (["--prompt", "a", "--batch", "4"], "batch: 4 is not allowed without --prompts: one answer is generated"),
        (["--prompt", "a", "--output", "x"], "output: belongs to --prompts"),
        (["--prompts", "a"], "output: belongs to --prompts"),
        (["--prompts", "missing", "--output", "x"], "prompts: missing cannot be read"),
        (["--infill", "a"], "infill: 'a' has no gap"),
        (["--infill", "__", "--chat"], "chat: is not allowed with --infill"),
        (["--infill", "__", "--length", "9"], "length: 9 is not allowed with --infill, whose text has its own length"),
        (["--prompt", "a", "--remasking", "beam"], "remasking: 'beam' is unknown"),
        (["--prompt", "a", "--temperature", "1e308"], "temperature: 1e+308 is not allowed; at least 0 and at most 1e+06"),
        (["--prompt", "a", "--steps", "0"], "steps: 0 is not allowed"),
        (["--prompt", "a", "--steps", "2", "--block-length", "8"], "steps: 2 is not allowed with 12 blocks of 8"),
        (["--prompt", "a", "--cache", "all"], "cache: 'all' is unknown"),
        (["--prompt", "a", "--refresh", "2"], "refresh: needs a cache"),
        (["--prompt", "a", "--threshold", "2"], "threshold: 2.0 is not allowed"),
        (["--prompt", "a", "--suppress", "1,x"], "suppress: 'x' is not a token id; allowed: numbers from 0 to 279, or end"),
        (["--prompt", "a", "--suppress", ",".join(map(str, range(280)))], "suppress: all 280 tokens are suppressed"),
        (["--prompt", "a", "--begin-suppress", ",".join(map(str, range(280)))], "begin_suppress: with suppress it holds all 280"),
        (["--prompt", "a", "--begin-suppress", "280"], "begin-suppress: '280' is not a token id"),
        (["--prompt", "a", "--defer", "end", "--remasking", "random"], "defer: needs remasking by confidence"),
        (["--prompt", "a", "--device", "tpu"], "device: 'tpu'"),
        (["--prompt", "a", "--dtype", "int8"], "dtype: 'int8' is unknown"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(folder, options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    length = [] if {"--length", "--infill"} & {*options} else ["--length", "90"]
    assert main(["generate", str(folder), *length, *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_a_line_with_gaps_is_no_chat(folder, tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    path.write_text('{"infill": "a __ b"}\n')
    options = ["--prompts", str(path), "--output", str(tmp_path / "out"), "--chat", "--length", "12"]
    assert main(["generate", str(folder), *options]) == 2
    assert "line 1: infill: is not allowed with --chat" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "has no line"),
        ("[1]", "line 1: [1] has not exactly one of prompt, infill, messages"),
        ('{"prompt": "a"}\n{"prompt": "a", "infill": "__"}', "line 2: "),
        ('{"prompt": 3}', "line 1: prompt: 3 is no text"),
        ('{"infill": "none"}', "line 1: infill: 'none' has no gap"),
        ('{"messages": []}', "line 1: messages: need --chat"),
        ('{"prompt": "' + "a" * 90 + '"}', "line 1: length: 12 is not allowed behind a prompt of 90 tokens"),
        ("{", "line 1: '{' is no JSON"),
        ('{"prompt": "a", "prompt": "b"}', 'line 1: \'{"prompt": "a", "prompt": "b"}\' is no JSON (\'prompt\' is given twice'),
        ('{"prompt": "a", "id": 1e999}', "is no JSON ('id': inf is no finite number)"),
        ('{"prompt": "a"}\n\n{"prompt"', "line 3: '{\"prompt\"' is no JSON"),
        ('{"prompt": "a", "answer": "b"}', "line 1: answer is a field of the output, and would be lost"),
    ],
)
def test_bad_lines_are_named(folder, lines, message, tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    path.write_text(lines)
    assert main(["generate", str(folder), "--prompts", str(path), "--output", str(tmp_path / "out"), "--length", "12"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_steps_that_do_not_reach_for_a_late_line_are_refused_before_any_work(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mdlm_min.tasks.text_model.TextModel.generate", None)
    path = tmp_path / "in.jsonl"
    path.write_text('{"infill": "a __"}\n{"infill": "a ______________"}\n')
    options = ["--output", str(tmp_path / "out"), "--batch", "1", "--steps", "2", "--block-length", "2"]
    assert main(["generate", str(folder), "--prompts", str(path), *options]) == 2
    assert "line 2: steps: 2 is not allowed with 7 blocks of 2" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir() if "out" in one.name] == []


def test_a_model_without_chat_tokens_is_refused(tmp_path, capsys):
    text = tmp_path / "abc.txt"
    text.write_text("abcdefgh\n" * 400)
    options = ["--steps", "1", "--tokenizer", "bytes", "--length", "16", "--layers", "1", "--width", "24"]
    assert main(["train", "--text", str(text), "--run", str(tmp_path / "run"), *options]) == 0
    capsys.readouterr()
    assert main(["generate", str(tmp_path / "run"), "--prompt", "a", "--chat", "--length", "8"]) == 2
    assert "chat: this model has no tokens for a chat template" in capsys.readouterr().err
    assert main(["generate", str(tmp_path / "run"), "--prompt", "a", "--length", "8"]) == 0
    for option in ("--suppress", "--begin-suppress", "--defer"):  # nor has it an end token
        assert main(["generate", str(tmp_path / "run"), "--prompt", "a", "--length", "8", option, "end"]) == 2
        error = capsys.readouterr().err
        allowed = "numbers from 0 to 256, separated by commas"
        assert f"{option[2:]}: 'end' is not allowed: this model has no end token; allowed: {allowed}\n" in error


def test_masked_tokens_are_shaded_in_the_picture(folder):
    model = TextModel.load(folder)
    template = model.template("ab____")
    [c, d] = model.tokenizer.encode("cd").tolist()
    tokens = [*template[:2], c, MASK, MASK, d]
    assert picture(model, template, tokens, 0) == [("ab", ""), ("c", "bold cyan"), (SHADE * 2, "dim"), ("d", "bold cyan")]
    assert picture(model, template, [*template[:2], c, d, END, END], 2) == [("cd", "bold cyan")]


def test_in_a_terminal_the_answer_appears_token_by_token_and_stays_once(folder):
    parent, child = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "mdlm_min",
        "generate",
        str(folder),
        "--prompt",
        "the cat",
        "--length",
        "60",
        "--cfg-scale",
        "1",
    ]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "70", "LINES": "20", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=child, stderr=child, env=environment)
    os.close(child)
    screen = pyte.Screen(70, 20)
    stream = pyte.ByteStream(screen)
    shades = []
    try:
        while part := os.read(parent, 65536):
            stream.feed(part)
            shades.append(sum(line.count(SHADE) for line in screen.display))
    except OSError:  # the last writer has closed the terminal
        pass
    os.close(parent)
    assert process.wait() == 0
    assert max(shades) > 40  # nearly all was masked at first
    assert shades[-1] == 0
    assert sum("tokens per forward" in line for line in screen.display) == 1


@pytest.mark.parametrize("option", ["--prompt", "--infill"])
def test_a_text_that_is_no_unicode_is_refused(folder, option, capsys):
    assert main(["generate", str(folder), option, "a\udcff __"]) == 2  # what a byte 0xff in argv becomes
    assert "text: 'a\\udcff" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (r'{"prompt": "\ud800"}', "line 1: {'prompt': '\\ud800'} has a character that UTF-8 does not allow"),
        (r'{"prompt": "a", "id": "\udc00"}', "has a character that UTF-8 does not allow"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_prompts_that_could_not_be_written_again_are_refused_before_any_work(folder, tmp_path, line, message, capsys):
    (tmp_path / "p.jsonl").write_text(line + "\n")
    options = ["--prompts", str(tmp_path / "p.jsonl"), "--output", str(tmp_path / "out"), "--length", "8"]
    assert main(["generate", str(folder), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_prompts_are_not_written_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text('{"prompt": "a"}\n')
    assert main(["generate", "missing", "--prompts", "p.jsonl", "--output", str(tmp_path / "p.jsonl")]) == 2
    assert "is the file of the prompts, which would be lost; allowed: another one" in capsys.readouterr().err
    assert Path("p.jsonl").read_text() == '{"prompt": "a"}\n'


def test_a_folder_as_output_is_refused_before_any_work(tmp_path, capsys):
    assert main(["generate", "missing", "--prompts", "missing", "--output", str(tmp_path)]) == 2
    assert f"output: {tmp_path} is a folder; allowed: a file" in capsys.readouterr().err


def test_what_could_not_be_written_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "out.jsonl"
    assert main(["generate", "missing", "--prompts", "missing", "--output", str(output)]) == 2
    assert f"output: {output} cannot be written (Not a directory)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--remasking", "ancestral", "--temperature", "1"],
        ["--block-length", "2", "--temperature", "1"],
        ["--temperature", "30"],  # the end token is drawn now and then, and must end no text with gaps
    ],
    ids=" ".join,
)
def test_gaps_are_filled_as_if_the_text_were_alone(folder, tmp_path, options, capsys):
    text, output = "ab______c", tmp_path / "out.jsonl"
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, [{"infill": text}, {"prompt": "a"}, {"infill": "_" * 40}])))
    for seed in range(15):
        more = [*options, "--seed", str(seed)]
        alone, _ = said(folder, "--infill", text, *more, capsys=capsys)
        said(folder, "--prompts", str(tmp_path / "in.jsonl"), "--output", str(output), "--length", "24", *more, capsys=capsys)
        assert json.loads(output.read_text().split("\n")[0])["answer"] + "\n" == alone


class Killed(BaseException):
    """What nothing here handles."""


@pytest.fixture
def kill(monkeypatch):
    """A function that lets generation end at its batch number `count`; it returns the list of the batches that were generated."""
    usual = TextModel.generate

    def at(count):
        made = []

        def generate(self, templates, *rest, **named):
            if len(made) == count:
                raise Killed
            made.append(len(templates))
            return usual(self, templates, *rest, **named)

        monkeypatch.setattr(TextModel, "generate", generate)
        return made

    return at


def test_a_file_of_answers_that_was_killed_is_finished_by_the_same_command(folder, tmp_path, kill, capsys):
    lines = [{"prompt": "x" * (number % 4), "id": number} for number in range(9)] + [{"infill": "a__b"}]
    path, output, partial = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "out.jsonl.partial"))
    path.write_text("\n".join(map(json.dumps, lines)))
    command = ["generate", str(folder), "--prompts", str(path), "--length", "12", "--temperature", "1", "--batch", "2"]
    assert main([*command, "--output", str(tmp_path / "whole.jsonl")]) == 0
    made = kill(3)
    with pytest.raises(Killed):
        main([*command, "--output", str(output)])
    assert made == [2, 2, 2]
    assert not output.exists()
    with partial.open("rb+") as file:  # torn in its last line
        file.truncate(partial.stat().st_size - 9)
    capsys.readouterr()
    left = partial.read_bytes()
    assert main([*command, "--output", str(output), "--length", "8", "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert f"output: {partial} holds work of another configuration (length: 12 there, 8 asked; seed: 0 there, 1 asked)" in error
    assert error.count("\n") == 1
    assert partial.read_bytes() == left
    made = kill(1)
    with pytest.raises(Killed):
        main([*command, "--output", str(output)])
    made = kill(-1)
    assert main([*command, "--output", str(output)]) == 0
    assert made == [2, 1, 1]  # of nine answers four are left after the torn one was generated again, and the gaps
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "whole.jsonl"]


@pytest.mark.parametrize("change", ["prompts", "model"])
def test_answers_to_other_prompts_or_of_another_model_are_not_mixed(folder, tmp_path, kill, change, capsys):
    model, path, output = tmp_path / "model", tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    shutil.copytree(folder, model)
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    command = ["generate", str(model), "--prompts", str(path), "--length", "12", "--batch", "1", "--output", str(output)]
    kill(1)
    with pytest.raises(Killed):
        main(command)
    kill(-1)
    if change == "prompts":
        path.write_text('{"prompt": "a"}\n{"prompt": "c"}\n')
    else:
        weights = Transformer(scaled(2, 2, 16, vocab_size=280, outputs=280, length=96), torch.Generator().manual_seed(2))
        save_weights(model, weights, SpecialTokens(mask=MASK, end=END, padding=END))
    capsys.readouterr()
    assert main(command) == 2
    assert f"{output}.partial holds work of another configuration ({change}: " in capsys.readouterr().err
    assert not output.exists()


def test_an_answer_begins_with_the_prompt_s_last_space_as_in_a_sample(folder, tmp_path, capsys):
    """Of subwords only: in bytes the space is the prompt's own."""
    hot = ["--temperature", "5", "--length", "4", "--no-stop"]
    for seed in map(str, range(4)):
        assert said(folder, "--prompt", "ab ", *hot, "--seed", seed, capsys=capsys)[0].startswith(" ")
    assert not all(said(folder, "--prompt", "ab", *hot, "--seed", seed, capsys=capsys)[0].startswith(" ") for seed in "0123")
    (tmp_path / "in.jsonl").write_text('{"prompt": "ab "}\n{"prompt": "ab"}\n{"infill": "ab __"}\n')
    files = ["--prompts", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    said(folder, *files, *hot, "--seed", "0", capsys=capsys)
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert first["answer"].startswith(" ")


def test_a_released_model_is_fine_tuned_at_a_large_model_s_rate(folder, tmp_path):
    talks = [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "yes"}]} for n in range(12)]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    command = ["finetune", "--start", str(folder), "--data", str(tmp_path / "talk.jsonl"), "--run", str(tmp_path / "run")]
    assert main([*command, "--steps", "1", "--held-out", "2"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["learning_rate"] == 2e-5
