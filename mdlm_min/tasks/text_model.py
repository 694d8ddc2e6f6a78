"""A trained run as a model that writes: its newest checkpoint, its tokenizer, and text with gaps to fill in."""

import re
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mdlm_min.data.tokenizer import Tokenizer
from mdlm_min.diffusion.sampling import SamplingConfig, unmask
from mdlm_min.run.config import build
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import RunFolder, settings_of
from mdlm_min.tasks.language import LanguageRunConfig, LanguageTask
from mdlm_min.tasks.pretrain import PretrainConfig, PretrainTask
from mdlm_min.training.checkpoint import Checkpoint, checkpoints
from mdlm_min.training.engine import EngineConfig
from mdlm_min.training.loop import check_device

GAP = re.compile(r"\[MASK\]|_{2,}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a byte model can write what a terminal would obey


class TextModel:
    """Fills in masked tokens and speaks text. `length` is the most tokens that it can read at once."""

    def __init__(self, task: LanguageTask | PretrainTask) -> None:
        """From a task whose model is trained. Raises InputError for data that were never text."""
        if task.data.tokenizer is None:
            raise InputError("run: its data were never text; allowed: a run on text")
        self.task, self.model = task, task.model
        self.tokenizer: Tokenizer = task.data.tokenizer
        self.length = self.model.config.length
        beyond = range(self.tokenizer.vocab_size, self.model.config.outputs)  # no token of any text
        if isinstance(task, PretrainTask):
            self.mask_token, self.suppressed = task.data.mask_token, {*beyond, task.data.end_token}
        else:
            self.mask_token, self.suppressed = task.mask_token, {*beyond}

    @staticmethod
    def load(path: Path, device: str = "cpu") -> "TextModel":
        """The newest checkpoint of a run folder. Raises InputError for a folder that holds no trained language model, and for one
        whose text has changed since: the tokenizer could be another."""
        folder = RunFolder(path)
        if not (path / "config.json").exists():
            raise InputError(f"run: {path} is not a run folder; allowed: one that `mdlm train` or `mdlm run` has written")
        settings = settings_of(folder.read_json("config.json"))
        kind = settings.pop("kind", "masked")
        data = settings.get("data")
        if kind not in ("masked", "probe") or not isinstance(data, dict) or not data.keys() & {"corpus", "source"}:
            allowed = "a run of `mdlm train`, 03_wikitext_bins or 04_8b_pt"
            raise InputError(f"run: {path} holds no masked diffusion model of text; allowed: {allowed}")
        found = checkpoints(folder.checkpoints)
        if not found:
            raise InputError(f"run: {path} has no checkpoint yet; train it first")
        check_device(device)
        task: LanguageTask | PretrainTask
        if "source" in data:
            pretraining = replace(build(PretrainConfig, settings), device=device, engine=EngineConfig())
            task = PretrainTask(pretraining, 0, folder)
        else:
            task = LanguageTask(replace(build(LanguageRunConfig, settings), device=device), 0)
        if (folder.read_json("data.json").get("sha256")) != task.data.sha256:
            name = data.get("corpus", data.get("source"))
            raise InputError(f"data: {name!r} has changed since {path} was trained; bring the old text back")
        saved = Checkpoint(found[-1])
        try:
            task.model.load_state_dict({name: saved[f"model.{name}"] for name in task.model.state_dict()})
        except (KeyError, RuntimeError) as error:  # config.json was changed after the run
            raise InputError(f"{saved.path}: its weights do not fit the model of the run's config.json") from error
        return TextModel(task)

    def template(self, text: str) -> list[int]:
        """Tokens of a text with gaps: [MASK] is one masked token, a run of n >= 2 underscores is n of them. Raises InputError for
        more tokens than the model can read."""
        tokens: list[int] = []
        end = 0
        for gap in GAP.finditer(text):
            tokens += self._before_gap(text[end : gap.start()])
            tokens += [self.mask_token] * (1 if gap[0] == "[MASK]" else len(gap[0]))
            end = gap.end()
        tokens += self.tokenizer.encode(text[end:]).tolist()
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
        tokens = self._before_gap(prompt)
        if len(tokens) >= length:
            raise InputError(f"prompt: it has {len(tokens)} tokens; allowed: fewer than the text's length, {length}")
        return tokens + [self.mask_token] * (length - len(tokens))

    def _before_gap(self, text: str) -> list[int]:
        """Tokens of a text that a gap follows. A last space is left to the gap: subword tokens begin with their space."""
        return self.tokenizer.encode(text.removesuffix(" ") if self.tokenizer.vocab_size > 256 else text).tolist()

    def fill(self, template: Tensor, config: SamplingConfig, seed: int = 0) -> Tensor:
        """`template` (int64 [batch, length]) with its masked tokens filled in; row i's noise depends on `seed` and i alone."""
        length = template.shape[1]
        if self.model.config.position_encoding == "learned":  # such a model reads blocks of its full length only
            template = F.pad(template, (0, self.length - length), value=self.mask_token)
        with self.task.autocast():
            filled = unmask(
                self.model, template.to(self.task.device), self.mask_token, config, seed,
                suppress=self.suppressed,
            )  # fmt: skip
        return filled[:, :length].cpu()

    def write(self, prompt: str = "", length: int = 0, config: SamplingConfig | None = None, seed: int = 0) -> str:
        """A text of `length` tokens that begins with the prompt; by default one token per step. Raises InputError as
        `continuation`."""
        template = torch.tensor([self.continuation(prompt, length)])
        return self.decode(
            self.fill(template, config or SamplingConfig("low-confidence", template.shape[1], 0.7), seed)[0].tolist()
        )

    def decode(self, tokens: list[int]) -> str:
        """Text of tokens; control characters other than line ends and tabs become replacement marks."""
        return _CONTROL.sub("\ufffd", self.tokenizer.decode(tokens))
