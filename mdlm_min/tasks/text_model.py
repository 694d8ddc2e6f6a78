"""A trained model that speaks text: a run's newest checkpoint or a released LLaDA, its tokenizer, and text with gaps to fill."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdlm_min.data.chat import NAMES, ChatTemplate, ChatTokens
from mdlm_min.data.tokenizer import Tokenizer, find_tokenizer, is_unicode
from mdlm_min.diffusion.generation_record import Generation
from mdlm_min.diffusion.remasking import TokenRules
from mdlm_min.diffusion.sampling import SamplingConfig, generate
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.llada import SpecialTokens, is_released, read_config, read_special_tokens
from mdlm_min.model.llada_weights import foreign_file, load_weights, save_weights, stored_dtype
from mdlm_min.model.transformer import Transformer, empty_transformer
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import GIVEN, RunFolder, settings_of
from mdlm_min.tasks.language import DTYPES
from mdlm_min.tasks.model_files import read_model_files
from mdlm_min.training.checkpoint import Checkpoint, checkpoints
from mdlm_min.training.loop import check_device

GAP = re.compile(r"\[MASK\]|_{2,}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a byte model can write what a terminal would obey


class TextModel:
    """Fills in masked tokens and speaks text.

    `end_token` ends a text (None: the model has none); `suppressed` are it and the ids that the tokenizer has not: they stand in
    no text; `length` is the most tokens that the model can read at once. `dtype` is what is computed in.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer | None,
        mask_token: int,
        end_token: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """By default computed in the dtype of the weights. Raises InputError where there is no tokenizer: data never text."""
        if tokenizer is None:
            raise InputError("run: its data were never text; allowed: a run on text")
        weight = next(model.parameters())
        self.model, self.tokenizer, self.mask_token, self.end_token = model, tokenizer, mask_token, end_token
        self.device, self.dtype = weight.device, dtype or weight.dtype
        self.length = model.config.length
        self.suppressed = {*range(tokenizer.vocab_size, model.config.outputs), *(() if end_token is None else (end_token,))}
        self._mixed = self.dtype != weight.dtype

    def autocast(self) -> torch.autocast:
        """The context to call `model` in: mixed precision where `dtype` is not that of the weights."""
        return torch.autocast(self.device.type, self.dtype, enabled=self._mixed)

    @staticmethod
    def load(path: Path, device: str = "cpu", dtype: str = "") -> "TextModel":
        """A run folder's newest checkpoint, or a released LLaDA folder.

        `dtype` is what is computed in: a run's weights stay what they were trained in, a released folder's are converted. By
        default it is the run's own, or that of the released weights. Raises InputError for a folder that holds no masked
        diffusion model of text, and for a released model that cannot be honoured to the letter.
        """
        check_device(device)
        if dtype and dtype not in DTYPES:
            raise InputError(f"dtype: {dtype!r} is unknown; allowed: {', '.join(DTYPES)}")
        return (_released if is_released(path) else _trained)(path, device, dtype)

    def chat_template(self) -> ChatTemplate:
        """The chat template with this model's own mask and end tokens, as in fine-tuning. Raises InputError for a model that has
        no embeddings for its tokens."""
        chat = ChatTemplate(self.tokenizer, ChatTokens.of(self.tokenizer, self.mask_token, self.end_token))
        if chat.vocab_size > self.model.config.vocab_size:
            raise InputError("chat: this model has no tokens for a chat template; allowed: a fine-tuned one, without chat any")
        return chat

    def template(self, text: str) -> list[int]:
        """Tokens of a text with gaps: [MASK] is one masked token, a run of n >= 2 underscores is n of them. Raises InputError for
        more tokens than the model can read."""
        tokens: list[int] = []
        end = 0
        for gap in GAP.finditer(text):
            tokens += self.before_gap(text[end : gap.start()])
            tokens += [self.mask_token] * (1 if gap[0] == "[MASK]" else len(gap[0]))
            end = gap.end()
        tokens += self._encode(text[end:])
        if len(tokens) > self.length:
            raise InputError(
                f"infill: the text has {len(tokens)} tokens; allowed: at most {self.length}, which this model can read"
            )
        return tokens

    def continuation(self, prompt: str = "", length: int = 0) -> list[int]:
        """A prompt's tokens and then masked ones, `length` in all (0: as many as the model can read). Raises InputError for a
        length that the model cannot read or that the prompt fills."""
        length = length or self.length
        if not 1 <= length <= self.length:
            raise InputError(f"length: {length} is not allowed; 1 to {self.length}, which this model can read")
        tokens = self.before_gap(prompt)
        if len(tokens) >= length:
            raise InputError(f"prompt: it has {len(tokens)} tokens; allowed: fewer than the text's length, {length}")
        return tokens + [self.mask_token] * (length - len(tokens))

    def with_answer(self, prompt: Sequence[int], length: int) -> list[int]:
        """A prompt's tokens and then `length` masked ones. Raises InputError for more than the model can read."""
        if len(prompt) + length > self.length:
            allowed = f"at most {self.length} together, which this model can read"
            raise InputError(f"length: {length} is not allowed behind a prompt of {len(prompt)} tokens; {allowed}")
        return [*prompt, *[self.mask_token] * length]

    def before_gap(self, text: str) -> list[int]:
        """Tokens of a text that a gap follows. A last space is left to the gap: subword tokens begin with their space."""
        return self._encode(text.removesuffix(" ") if self.leaves_space(text) else text)

    def leaves_space(self, text: str) -> bool:
        """Whether the last space of a text is left to the gap that follows."""
        return text.endswith(" ") and self.tokenizer.vocab_size > 256

    def rules_behind(self, prompt: str) -> TokenRules:
        """Roles of tokens behind a prompt: the first one begins with the space that `before_gap` has left to it."""
        return self.rules(begin_suppress=self.inside_words() if self.leaves_space(prompt) else ())

    def inside_words(self) -> set[int]:
        """Tokens that do not begin with a space."""
        tokens = range(self.tokenizer.vocab_size)
        return {token for token in tokens if not self.tokenizer.decode([token]).startswith(" ")}

    def _encode(self, text: str) -> list[int]:
        if not is_unicode(text):
            raise InputError(f"text: {shown(text)} has a character that UTF-8 does not allow")
        tokens: list[int] = self.tokenizer.encode(text).tolist()
        return tokens

    def rules(
        self,
        stop: Collection[int] = (),
        suppress: Collection[int] = (),
        begin_suppress: Collection[int] = (),
        defer: Collection[int] = (),
    ) -> TokenRules:
        """Roles of tokens in generation. Those that the model suppresses are produced only where they are meant, to stop or as
        deferred ones."""
        never = (self.suppressed - {*stop, *defer}) | {*suppress}
        return TokenRules(
            self.mask_token, frozenset(never), frozenset(begin_suppress), frozenset(defer), frozenset(stop) - frozenset(suppress)
        )

    def generate(
        self,
        templates: Sequence[Sequence[int]],
        config: SamplingConfig,
        seed: int = 0,
        rules: TokenRules | None = None,
        items: Sequence[int] | None = None,
        watch: Callable[[Tensor], None] | None = None,
    ) -> Generation:
        """Templates of any lengths in one batch, filled in: `tokens` [batch, longest], each row's own to the left. See
        diffusion.sampling.generate; by default the tokens that stand in no text are suppressed."""
        lengths = [len(template) for template in templates]
        learned = self.model.config.position_encoding == "learned"
        tokens = torch.full((len(templates), self.length if learned else max(lengths)), self.mask_token)
        for row, template in zip(tokens, templates, strict=True):
            row[: len(template)] = torch.tensor(template)
        with self.autocast():
            found = generate(
                self._score_blocks if learned else self.model, tokens.to(self.device), rules or self.rules(), config, seed, items,
                lengths, watch,
            )  # fmt: skip
        return replace(found, tokens=found.tokens[:, : max(lengths)].cpu())

    def _score_blocks(self, tokens: Tensor, asked: Tensor, padding_mask: Tensor | None = None, **cached: Any) -> Tensor:
        """A model with learned positions reads blocks of its full length only: what is behind a text stays masked."""
        scores: Tensor = self.model(tokens, asked, **cached)
        return scores

    def fill(self, template: Tensor, config: SamplingConfig, seed: int = 0, rules: TokenRules | None = None) -> Tensor:
        """`template` (int64 [batch, length]) with its masked tokens filled in; row i's noise depends on `seed` and i alone."""
        return self.generate(template.tolist(), config, seed, rules).tokens

    def write(self, prompt: str = "", length: int = 0, config: SamplingConfig | None = None, seed: int = 0) -> str:
        """A text of `length` tokens that begins with the prompt; by default one token per step. Raises InputError as
        `continuation`."""
        template = torch.tensor([self.continuation(prompt, length)])
        config = config or SamplingConfig("low-confidence", template.shape[1], 0.7)
        return self.decode(self.fill(template, config, seed, self.rules_behind(prompt))[0].tolist())

    def decode(self, tokens: list[int]) -> str:
        """Text of tokens; control characters other than line ends and tabs become replacement marks."""
        return _CONTROL.sub("\ufffd", self.tokenizer.decode(tokens))


def check_gaps(text: str) -> None:
    """Raise InputError for a text without a gap to fill in."""
    if not GAP.search(text):
        raise InputError(f"infill: {shown(text)} has no gap; write [MASK] or __ where text is wanted")


def _released(path: Path, device: str, dtype: str) -> TextModel:
    config, tokens = read_config(path), read_special_tokens(path)
    tokenizer = find_tokenizer(str(path / "tokenizer.json"), list, "", path, None)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{path / 'tokenizer.json'}: {tokenizer.vocab_size} tokens are not allowed; the model has {config.vocab_size}"
        )
    if (mask := tokenizer.special_id(NAMES[0])) not in (None, tokens.mask):
        raise InputError(
            f"{path / 'tokenizer.json'}: {NAMES[0]} is {mask}, but mask_token_id in config.json is {tokens.mask}; they must agree"
        )
    for name, token in (("mask_token_id", tokens.mask), ("eos_token_id", tokens.end)):
        if token is not None and tokenizer.is_text(token):
            raise InputError(
                f"{path / 'config.json'}: {name}: {token} stands for text, {shown(tokenizer.decode([token]))}; allowed: a "
                "special token, or an id that the tokenizer has not"
            )
    model = empty_transformer(config, DTYPES[dtype] if dtype else stored_dtype(path))
    load_weights(path, model)
    return TextModel(model.to(device), tokenizer, tokens.mask, tokens.end)


def context_length(path: Path) -> int:
    """The most tokens that the model of a run folder or a released LLaDA folder reads at once. Its weights are not read. Raises
    InputError as TextModel.load."""
    if is_released(path):
        return read_config(path).length
    return read_model_files(_run_of_text(path)[0])[0].length


def _run_of_text(path: Path) -> tuple[RunFolder, dict[str, Any]]:
    """The folder of a run that says what its model is, and the run's settings. Raises InputError for another."""
    if not (path / "config.json").is_file():
        allowed = "one that `mdlm train` or `mdlm run` has written, or a released LLaDA folder"
        raise InputError(f"run: {path} is not a run folder; allowed: {allowed}")
    folder = RunFolder(path)
    settings = settings_of(folder.read_json("config.json"))
    if not (path / "model.json").is_file():
        allowed = "a run of `mdlm train`, `mdlm finetune`, 03_wikitext_bins or 04_8b_pt that has begun to train"
        raise InputError(f"run: {path} holds no masked diffusion model of text (no model.json); allowed: {allowed}")
    return folder, settings


def _trained(path: Path, device: str, dtype: str, weights: torch.dtype | None = None) -> TextModel:
    """`weights` is their dtype: by default the one that they were trained in, or wider."""
    folder, settings = _run_of_text(path)
    found = checkpoints(folder.checkpoints)
    if not found:
        finished = (path / "finished.json").exists()
        remedy = "was trained without checkpoints; delete it, and train again with fewer MDLM_CHECKPOINT_SECONDS"
        raise InputError(f"run: {path} {remedy if finished else 'has no checkpoint yet; train it first'}")
    for name in ("dtype", "weights"):
        if settings.get(name, "float32") not in DTYPES:
            raise InputError(f"{path / 'config.json'}: {name}: {shown(settings[name])} is unknown; allowed: {', '.join(DTYPES)}")
    if (path / "finished.json").exists() and (altered := folder.altered(GIVEN)):
        raise InputError(f"{altered}; bring it back, or train again")
    config, tokenizer, mask, end = read_model_files(folder)
    compute = DTYPES[dtype or settings.get("dtype", "float32")]
    weights = weights or torch.promote_types(DTYPES[settings.get("weights", "float32")], compute)
    return TextModel(_newest(Checkpoint(found[-1]), config, weights).to(device), tokenizer, mask, end, compute)


def _newest(saved: Checkpoint, config: ModelConfig, dtype: torch.dtype) -> Transformer:
    """The Transformer of a checkpoint, its weights in `dtype`: at most one tensor is in memory besides it."""
    model = empty_transformer(config, dtype)
    for name, parameter in model.named_parameters():
        if f"model.{name}" not in saved or (found := saved[f"model.{name}"]).shape != parameter.shape:
            raise InputError(f"{saved.path}: its weights do not fit model.json; allowed: the model that was trained")
        parameter.detach().copy_(found)
    return model


def export(path: Path, output: Path, dtype: str) -> None:
    """Write the newest checkpoint of the run folder `path` as a folder in LLaDA's released form: weights in `dtype`, the run's
    own mask, end and padding tokens, and its tokenizer as a tokenizer.json.

    At most one copy of the model is in memory. Raises InputError for a run that has no checkpoint or whose model is not LLaDA's
    block, and where the output is a file or another run.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype: {dtype!r} is unknown; allowed: {', '.join(DTYPES)}")
    if output.exists() and not output.is_dir():
        raise InputError(f"output: {output} is a file; allowed: a folder")
    if (output / "config.json").exists() and not is_released(output):
        raise InputError(f"output: {output} is a run folder or another model's; allowed: a new folder, or an older export")
    if output.is_dir() and not (output / "config.json").exists() and (other := foreign_file(output)):
        raise InputError(f"output: {output} holds {other}, which is no export's; allowed: a new folder, or an older export")
    model = _trained(path, "cpu", "", DTYPES[dtype])
    tokens = SpecialTokens(model.mask_token, model.end_token, model.end_token)  # what is beyond a text's end is padding
    save_weights(output, model.model, tokens, tokenizer=model.tokenizer.to_json())
