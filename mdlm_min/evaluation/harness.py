"""The lm-eval model `mdlm`: a run folder or a released LLaDA folder behind lm-eval's three kinds of requests.

loglikelihood          minus the NLL of diffusion/answer_likelihood.py;
loglikelihood_rolling  a text in windows of the model's length, each whole, the last one behind the text before it;
generate_until         diffusion/sampling.py; `gen_kwargs` are lm-eval's own (until, max_gen_toks, temperature, do_sample) and
                       the fields of SamplingConfig (steps, block_length, remasking, threshold, ...).

`guidance` is that of both: of likelihoods, and of generation where gen_kwargs has no cfg_scale. Every random draw is a function
of the seed and of a request's own text, so results do not depend on order or batch, and what `MDLM.known` or lm-eval's
`--use_cache` keeps is what would be computed again. The exception are repeats of one generation at a temperature, which must
differ: lm-eval skips its cache only for requests that say do_sample=True, so a temperature without it is refused.
"""

import hashlib
import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from lm_eval.api.model import LM
from lm_eval.utils import simple_parse_args_string
from torch import Tensor
from tqdm import tqdm

from mdlm_min.data.chat import NAMES, ChatTemplate
from mdlm_min.diffusion.answer_likelihood import Answer, LikelihoodConfig, Passes, answer_nll, guided_nll
from mdlm_min.diffusion.remasking import TokenRules
from mdlm_min.diffusion.sampling import SamplingConfig
from mdlm_min.evaluation.gen_kwargs import parse_gen_kwargs, until_first
from mdlm_min.evaluation.paper_tasks import is_gpqa
from mdlm_min.run.config import Range, build, check_fields, shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.record_log import RecordLog
from mdlm_min.tasks.text_model import TextModel

SAVED_EVERY = 1024  # requests between two savings
# One string for each special token in a chat prompt, and the line ends behind a header, which are encoded alone.
_SPECIAL = re.compile(f"({'|'.join(map(re.escape, NAMES))}|(?<={re.escape(NAMES[4])})\n\n)")


@dataclass(frozen=True)
class HarnessConfig:
    """`--model_args` of the model. `folder`: a run or a released LLaDA. A batch has at most `batch_tokens` tokens and, unless
    `batch_size` is "auto", at most those of that many sequences of the model's full length; neither changes a result, but for
    rounding."""

    folder: str
    passes: int = 128
    estimator: str = "balanced"
    guidance: Annotated[float, Range(0, 1e6)] = 0.0
    seed: int = 0
    device: str = "cpu"
    dtype: str = ""
    batch_tokens: Annotated[int, Range(1)] = 8192
    batch_size: int | str = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        self.likelihood()
        if self.batch_size != "auto" and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            raise InputError(f"batch_size: {shown(self.batch_size)} is not allowed; auto, or at least 1")

    def likelihood(self) -> LikelihoodConfig:
        """How answers are scored."""
        return LikelihoodConfig(self.passes, self.estimator, self.seed)

    def tokens_of_batch(self, length: int) -> int:
        """The most tokens of a batch, for a model of this length."""
        return self.batch_tokens if self.batch_size == "auto" else min(self.batch_tokens, int(self.batch_size) * length)


@dataclass
class Speed:
    """What generation took: forward passes of the rows, answers' tokens, seconds, sequences. Answers that were kept count as they
    did when they were written; those from lm-eval's own cache take nothing and are not counted."""

    passes: int = 0
    tokens: int = 0
    seconds: float = 0.0
    sequences: int = 0

    def add(self, written: "WrittenText") -> None:
        self.passes += written.passes
        self.tokens += written.tokens
        self.seconds += written.seconds
        self.sequences += 1


@dataclass(frozen=True)
class WrittenText:
    """A text, without the stop string that ended it, and its forward passes, its tokens, its share of the seconds."""

    text: str
    passes: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class _Wanted:
    """One generation request: its prompt's tokens, stop strings, number of tokens and settings."""

    prompt: Tensor
    until: tuple[str, ...]
    tokens: int
    config: SamplingConfig
    key: int


class MDLM(LM):  # type: ignore[misc]
    """A masked diffusion model as lm-eval sees it. Made from `HarnessConfig`'s fields, as `--model_args` gives them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.config = build(HarnessConfig, settings, "model_args.")
        self.text = TextModel.load(Path(self.config.folder), self.config.device, self.config.dtype)
        shape = self.text.model.config
        if shape.position_encoding != "rotary" or shape.causal:
            raise InputError(f"folder: {self.config.folder}: needs rotary positions and no causal mask, for texts of any length")
        self.text.model.eval()
        self.speed = Speed()
        self.known = RecordLog(None, {}, "cache")  # answers to requests, by what they depend on
        self._chat: ChatTemplate | None = None

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> "MDLM":
        """From `--model_args` and lm-eval's own options, which these replace. lm-eval's default device, cuda:0, means a GPU where
        there is one."""
        given = {name: value for name, value in (additional_config or {}).items() if value is not None}
        if given.get("device") == "cuda:0":
            given["device"] = "cuda" if torch.cuda.is_available() else "cpu"
        if str(given.get("batch_size", "")).isdigit():
            given["batch_size"] = int(given["batch_size"])
        return cls(**{**given, **arg_dict})

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> "MDLM":
        """The same from `name=value,name=value`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    # Text to tokens

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer and the template, for lm-eval's cache of prompts. It is read where a template is applied, also
        where all prompts then come from that cache, so from here on prompts have special tokens. Raises InputError for a model
        without them."""
        self._chat = self._chat or self.text.chat_template()
        return f"mdlm-{self.text.tokenizer.identity}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template in words, for lm-eval's records; empty where none is applied. Raises InputError for a name."""
        if isinstance(chat_template, str):
            raise InputError(f"apply_chat_template: {shown(chat_template)} is unknown; allowed: no name, there is one template")
        return f"{NAMES[2]}({NAMES[3]}role{NAMES[4]}\n\ncontent{NAMES[5]})*" if chat_template else ""

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as a string, in which special tokens have their names. Without a generation prompt the last turn stays
        open. Raises InputError for a model without these tokens, and for a content that spells one out."""
        if self._chat is None:
            self._chat = self.text.chat_template()
        turns = [NAMES[2]]
        for message in chat_history:
            content = message["content"].strip()
            if found := _SPECIAL.search(content):
                raise InputError(f"messages: a content holds {found[0]!r}, which is the template's own")
            turns.append(f"{NAMES[3]}{message['role']}{NAMES[4]}\n\n{content}{NAMES[5]}")
        if add_generation_prompt:
            return "".join(turns) + f"{NAMES[3]}assistant{NAMES[4]}\n\n"
        return "".join(turns).removesuffix(NAMES[5])

    def _tokens(self, text: str) -> Tensor:
        """Token ids of a text, int64; of a chat prompt with its special tokens."""
        encode = self.text.tokenizer.encode
        if self._chat is None or not text.startswith(NAMES[2]):
            return torch.from_numpy(encode(text).astype("int64"))
        special = dict(zip(NAMES, astuple(self._chat.special), strict=True))
        parts = [[special[part]] if part in special else encode(part).tolist() for part in _SPECIAL.split(text) if part]
        return torch.tensor([token for part in parts for token in part], dtype=torch.int64)

    def _pair(self, context: str, continuation: str) -> tuple[Tensor, Tensor]:
        """Tokens of a pair as lm-eval splits it: spaces that end the context belong to the continuation, and both are encoded
        together."""
        if self._chat is not None and context.startswith(NAMES[2]):
            prompt, answer = self._tokens(context), self._tokens(continuation)
        else:
            spaces = len(context) - len(context.rstrip())
            context, continuation = context[: len(context) - spaces], context[len(context) - spaces :] + continuation
            prompt = self._tokens(context)
            answer = self._tokens(context + continuation)[len(prompt) :]
        return prompt, answer

    def is_cut(self, arguments: Sequence[Any]) -> bool:
        """Whether the prompt of a request with these arguments loses its beginning: the model cannot read all of it."""
        if len(arguments) < 2:
            return False  # a whole text, read in windows
        context, rest = arguments[:2]
        if isinstance(rest, str):
            return sum(map(len, self._pair(context, rest))) > self.text.length
        return len(self._tokens(context)) + self.generation(rest)[1] > self.text.length

    def _keep(self, found: Iterable[tuple[Any, str, Any]]) -> None:
        """Keep answers to requests by their keys; those to GPQA in memory only."""
        parts: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        for request, key, answer in found:
            parts[is_gpqa(request.task_name or "")][key] = answer
        self.known.add(parts[False])
        self.known.records.update(parts[True])

    # Likelihood

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For each (context, continuation): log-likelihood in nats, and whether filling in one token at a time, the most
        confident first, gives the continuation. That is asked only where a document has one continuation among these requests:
        choices are compared by likelihood alone, and for them it is False. So of a document's choices in calls of their own, as
        lm-eval makes them where its own cache holds the others, it may be True."""
        count = Counter((request.task_name, request.doc_id) for request in requests)
        alone = [count[request.task_name, request.doc_id] == 1 for request in requests]
        keys = [_key("loglikelihood", request.args, one) for request, one in zip(requests, alone, strict=True)]
        missing = [index for index, key in enumerate(keys) if key not in self.known.records]
        wanted = self._answers([requests[index] for index in missing])
        with tqdm(desc="likelihood", unit=" passes", disable=None) as bar:
            for first in range(0, len(missing), SAVED_EVERY):
                part, answers = missing[first : first + SAVED_EVERY], wanted[first : first + SAVED_EVERY]
                greedy = [alone[index] and self._is_greedy(answer) for index, answer in zip(part, answers, strict=True)]
                found = zip(part, (-self._nll(answers, bar.update)).tolist(), greedy, strict=True)
                self._keep((requests[index], keys[index], [value, said]) for index, value, said in found)
                for index in part:
                    self.cache_hook.add_partial("loglikelihood", requests[index].args, tuple(self.known.records[keys[index]]))
        return [(value, said) for value, said in (self.known.records[key] for key in keys)]

    def _answers(self, requests: Sequence[Any]) -> list[Answer]:
        """Raises InputError, naming the first and counting all, for continuations that the model cannot read."""
        answers, unread = [], []
        for request in requests:
            try:
                answers.append(Answer.within(self.text.length, *self._pair(*request.args)))
            except InputError as error:
                unread.append(f"tasks: {request.task_name}, item {request.doc_id}: {error}")
        if unread:
            raise InputError(f"{unread[0]} ({len(unread)} of {len(requests)} answers are not)")
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-likelihood of whole texts, in nats: every token is scored once."""
        keys = [_key("loglikelihood_rolling", request.args) for request in requests]
        with tqdm(desc="likelihood", unit=" passes", disable=None) as bar:
            for key, request in zip(keys, requests, strict=True):
                if key not in self.known.records:
                    windows = rolling_windows(self._tokens(request.args[0]), self.text.length)
                    self._keep([(request, key, -float(self._nll(windows, bar.update).sum()))])
                    self.cache_hook.add_partial("loglikelihood_rolling", request.args, self.known.records[key])
        return [self.known.records[key] for key in keys]

    def _nll(self, answers: list[Answer], passed: Callable[[int], Any]) -> Tensor:
        nll_of = guided_nll(self._logits, self.text.mask_token, self.config.guidance)

        def counted(passes: Passes) -> Tensor:
            passed(len(passes.tokens))
            return nll_of(passes)

        length = self.text.length
        return answer_nll(counted, answers, self.config.likelihood(), length, self.config.tokens_of_batch(length))

    @torch.no_grad()
    def _logits(self, tokens: Tensor, mask: Tensor, real: Tensor) -> Tensor:
        device = self.text.device
        with self.text.autocast():
            logits: Tensor = self.text.model(tokens.to(device), mask.to(device), None if bool(real.all()) else real.to(device))
        return logits

    def _is_greedy(self, answer: Answer) -> bool:
        size = len(answer.answer)
        config = SamplingConfig("low-confidence", size, 0.0, cfg_scale=self.config.guidance)
        template = [*answer.prompt.tolist(), *[self.text.mask_token] * size]
        made = self.text.generate([template], config, rules=TokenRules(self.text.mask_token))
        return made.tokens[0, -size:].tolist() == answer.answer.tolist()

    # Generation

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """A text for each (context, gen_kwargs), without the stop string that ended it. Repeats of one request have noise of
        their own. Raises InputError for settings that are unknown."""
        seen: Counter[str] = Counter()
        keys, wanted = [], []
        for request in requests:
            context, options = request.args
            request_text = repr((context, sorted(options.items())))
            keys.append(_key("generate_until", [context, sorted(options.items())], seen[request_text]))
            wanted.append(self._wanted(context, options, seen[request_text]))
            seen[request_text] += 1
        missing = [index for index, key in enumerate(keys) if key not in self.known.records]
        with tqdm(desc="generation", unit=" texts", total=len(missing), disable=None) as bar:
            for batch in self._batches(wanted, missing):
                written = self._write([wanted[index] for index in batch])
                self._keep((requests[index], keys[index], asdict(one)) for index, one in zip(batch, written, strict=True))
                for index, one in zip(batch, written, strict=True):
                    self.cache_hook.add_partial("generate_until", requests[index].args, one.text)
                bar.update(len(batch))
        found = [WrittenText(**self.known.records[key]) for key in keys]
        for one in found:
            self.speed.add(one)
        return [one.text for one in found]

    def generation(self, options: Mapping[str, Any]) -> tuple[tuple[str, ...], int, SamplingConfig]:
        """gen_kwargs as this model takes them: stop strings, number of tokens, sampling. Raises InputError for those that it
        cannot."""
        until, tokens, config = parse_gen_kwargs(options, self.config.guidance)
        if not 1 <= tokens <= self.text.length:
            raise InputError(
                f"gen_kwargs: max_gen_toks: {tokens} (the task's own where none is given) is not allowed; "
                f"1 to {self.text.length}, which this model can read"
            )
        if config.steps < (blocks := -(-tokens // (config.block_length or tokens))):
            allowed = f"at least one for each of the {blocks} blocks of {config.block_length} in {tokens} tokens"
            raise InputError(f"gen_kwargs.steps: {config.steps} is not allowed; {allowed}")
        return until, tokens, config

    def _wanted(self, context: str, options: Mapping[str, Any], repeat: int) -> _Wanted:
        until, tokens, config = self.generation(options)
        prompt = self._tokens(context)
        key = int.from_bytes(hashlib.blake2b(f"{repeat} {context}".encode(), digest_size=7).digest(), "little")
        return _Wanted(prompt[max(0, len(prompt) + tokens - self.text.length) :], until, tokens, config, key)

    def _batches(self, wanted: list[_Wanted], missing: list[int]) -> Iterator[list[int]]:
        """Those `missing` with the same settings and similar length, as many as a batch holds; the longest first."""
        sizes = [len(one.prompt) + one.tokens for one in wanted]
        order = sorted(missing, key=lambda index: -sizes[index])
        for config in dict.fromkeys(wanted[index].config for index in missing):
            left = [index for index in order if wanted[index].config == config]
            while left:
                rows = max(1, self.config.tokens_of_batch(self.text.length) // sizes[left[0]])
                yield left[:rows]
                left = left[rows:]

    def _write(self, batch: list[_Wanted]) -> list[WrittenText]:
        stop = {self.text.end_token} if self.text.end_token is not None else set()
        if self._chat is not None:
            stop |= {self._chat.special.end, self._chat.special.end_turn}
        templates = [[*one.prompt.tolist(), *[self.text.mask_token] * one.tokens] for one in batch]
        made = self.text.generate(templates, batch[0].config, self.config.seed, self.text.rules(stop), [one.key for one in batch])
        found = []
        rows = zip(batch, templates, made.tokens.tolist(), made.passes, made.answers, strict=True)
        for one, template, row, passes, tokens in rows:
            answer = row[len(one.prompt) : len(template)]
            end = next((place for place, token in enumerate(answer) if token in stop), len(answer))
            whole = self.text.tokenizer.decode(answer[:end])
            text = until_first(whole, one.until)
            kept = tokens if text == whole else min(tokens, self._tokens_for(text, answer[:end]))
            found.append(WrittenText(text, passes, kept, made.seconds / len(batch)))
        return found

    def _tokens_for(self, text: str, answer: list[int]) -> int:
        """How many of the answer's tokens it takes to begin with `text`."""
        return bisect_left(range(len(answer)), True, key=lambda size: self.text.tokenizer.decode(answer[:size]).startswith(text))


def _key(kind: str, arguments: Sequence[Any], more: int = 0) -> str:
    """What tells a request from any other of one model: its arguments, and whether it is its document's only one or which repeat
    it is."""
    return hashlib.sha256(json.dumps([kind, arguments, more], default=str).encode()).hexdigest()[:32]


def rolling_windows(tokens: Tensor, length: int) -> list[Answer]:
    """A text (int64 [tokens]) in windows of `length`: each is scored whole, the last one behind as much text as fits."""
    count = len(tokens)
    return [
        Answer(tokens[max(0, min(first, count - length)) : first], tokens[first : first + length])
        for first in range(0, count, length)
    ]
