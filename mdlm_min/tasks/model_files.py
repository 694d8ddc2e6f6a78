"""What a run folder says of its own model, so that it can be used where the data that trained it are gone.

model.json has the shape, the mask and end token, and the tokenizer: its name where it has one that needs no text (bytes, gpt2),
else tokenizer.json, the file beside it.
"""

from dataclasses import asdict
from typing import Any

from mdlm_min.data.text import cache_folder, data_folder
from mdlm_min.data.tokenizer import Tokenizer, find_tokenizer
from mdlm_min.model.config import ModelConfig
from mdlm_min.run.config import build, shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import write_whole
from mdlm_min.run.run_folder import RunFolder
from mdlm_min.training import distributed

NAMED = ("bytes", "gpt2")
FILE = "tokenizer.json"


def write_model_files(folder: RunFolder, model: ModelConfig, tokenizer: Tokenizer, mask: int, end: int | None) -> None:
    """Write model.json and, where the tokenizer has no name, tokenizer.json."""
    name = tokenizer.identity if tokenizer.identity in NAMED else FILE
    folder.write_json("model.json", {"model": asdict(model), "tokenizer": name, "mask_token": mask, "end_token": end})
    if name == FILE and distributed.rank() == 0:
        write_whole(folder.path / FILE, tokenizer.to_json())


def read_model_files(folder: RunFolder) -> tuple[ModelConfig, Tokenizer, int, int | None]:
    """The model's shape, tokenizer, mask and end token. Raises InputError for a file that is missing or damaged."""
    path, described = folder.path / "model.json", folder.read_json("model.json", ["model", "mask_token", "end_token"])
    name = described.get("tokenizer", FILE)
    if name not in (*NAMED, FILE):
        raise InputError(f"{path}: tokenizer: {shown(name)} is unknown; allowed: {', '.join((*NAMED, FILE))}")
    where = str(folder.path / FILE) if name == FILE else name
    tokenizer = find_tokenizer(where, list, "", cache_folder(), data_folder())
    config: ModelConfig = build(ModelConfig, described["model"], "model.")
    tokens: dict[str, Any] = {field: described[field] for field in ("mask_token", "end_token")}
    for field, token in tokens.items():
        if not (type(token) is int and 0 <= token < config.vocab_size) and (token is not None or field == "mask_token"):
            allowed = f"a token id from 0 to {config.vocab_size - 1}"
            raise InputError(f"{path}: {field}: {shown(token)} is not allowed; {allowed}")
    return config, tokenizer, tokens["mask_token"], tokens["end_token"]
