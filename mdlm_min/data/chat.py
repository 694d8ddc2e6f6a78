r"""The chat template: conversations as token ids, for fine-tuning, generation and evaluation alike.

LLaDA's template, which is Llama 3's: for each message

    <|start_header_id|>role<|end_header_id|>\n\ncontent<|eot_id|>

behind one <|startoftext|>, and before an answer the assistant's header. A tokenizer that has LLaDA's special tokens gives their
ids; for every other tokenizer (bytes, bpe:SIZE, gpt2) they stand behind its vocabulary, so that a small model learns the same
template. Role, the two line ends and the content are encoded one by one: the tokens of a prompt are then always the first
tokens of the conversation that it begins, whatever the tokenizer would merge.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from mdlm_min.data.tokenizer import Tokenizer, is_unicode
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError

ROLES = ("system", "user", "assistant", "tool")
Message = Mapping[str, str]  # role and content


@dataclass(frozen=True)
class ChatTokens:
    """Ids of the tokens that stand for no text. `end` is also the padding."""

    mask: int
    end: int
    begin: int
    start_header: int
    end_header: int
    end_turn: int

    @property
    def ids(self) -> frozenset[int]:
        """All of them."""
        return frozenset(astuple(self))

    @staticmethod
    def of(tokenizer: Tokenizer, mask: int | None = None, end: int | None = None) -> "ChatTokens":
        """The tokenizer's own, where it has LLaDA's mask; otherwise new ones behind its vocabulary, mask and end first, as in
        pre-training (data/samples.py). `mask` and `end` are those of a model, where there is one.

        Raises InputError for a tokenizer that has the mask and not all of the others, or another mask than the model.
        """
        named = [tokenizer.special_id(name) for name in NAMES]
        if named[0] is None:
            free = (number for number in itertools.count(tokenizer.vocab_size) if number not in (mask, end))
            first = next(free) if mask is None else mask
            return ChatTokens(first, next(free) if end is None else end, *itertools.islice(free, len(NAMES) - 2))
        if missing := [name for name, number in zip(NAMES, named, strict=True) if number is None]:
            raise InputError(f"data.tokenizer: it has {NAMES[0]} but not {', '.join(missing)}; LLaDA's template needs them all")
        if mask not in (None, named[0]):
            raise InputError(f"data.tokenizer: its {NAMES[0]} is {named[0]}, but the model's mask is {mask}")
        return ChatTokens(*(number for number in named if number is not None))


NAMES = ("<|mdm_mask|>", "<|endoftext|>", "<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


class ChatTemplate:
    """Conversations to token ids, and the tokens of an answer to its text."""

    def __init__(self, tokenizer: Tokenizer, special: ChatTokens | None = None) -> None:
        """`special`: ids that are given, as of a model whose tokenizer is another one; by default ChatTokens.of."""
        self.tokenizer = tokenizer
        self.special = special or ChatTokens.of(tokenizer)

    @property
    def vocab_size(self) -> int:
        """The least vocabulary of a model that reads this template."""
        return max(self.tokenizer.vocab_size, 1 + max(self.special.ids))

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[int]:
        """Token ids of a conversation; with `add_generation_prompt` the assistant's header follows, and an answer is to come."""
        tokens = [self.special.begin]
        for message in messages:
            tokens += [*self._header(message["role"]), *self.content(message["content"])]
        return tokens + self._header("assistant") if add_generation_prompt else tokens

    def content(self, text: str) -> list[int]:
        """What follows a header: the text, without the space around it, and the token that ends the turn."""
        return [*self._encode(text.strip()), self.special.end_turn]

    def answer(self, tokens: Iterable[int]) -> str:
        """Text of an answer: what stands before the first token that ends a turn or a text. Other special tokens are left out."""
        kept = []
        for token in tokens:
            if token in (self.special.end_turn, self.special.end):
                break
            if token not in self.special.ids:
                kept.append(token)
        return self.tokenizer.decode(kept)

    def _header(self, role: str) -> list[int]:
        return [self.special.start_header, *self._encode(role), self.special.end_header, *self._encode("\n\n")]

    def _encode(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer.encode(text)]


def check_messages(value: Any) -> list[Message]:
    """The value as a conversation. Raises ValueError saying what is wrong with it."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"messages: {shown(value)} is no list of messages")
    for index, message in enumerate(value):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES:
            raise ValueError(f"messages[{index}].role: {shown(role)} is unknown; allowed: {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise ValueError(f"messages[{index}].content: {shown(content)} is no text")
        if not is_unicode(content):
            raise ValueError(f"messages[{index}].content: {shown(content)} has a character that UTF-8 does not allow")
        for name, more in message.items():  # such as tool_calls, or weight = 0 for an answer that is not to be learned
            if name not in ("role", "content") and more not in (None, [], {}, "") and (name, more) != ("weight", 1):
                field = f"messages[{index}].{shown(name)[1:-1]}"
                raise ValueError(f"{field}: {shown(more)} cannot be honoured; allowed: role and content")
    return value
