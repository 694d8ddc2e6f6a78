"""The page that says what a folder of corpora holds, against the code that looks for it."""

from pathlib import Path

from mdlm_min.data.items import FILES
from mdlm_min.data.text import HUB
from mdlm_min.data.tokenizer import GPT2_FILES

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_the_page_on_data_names_all_that_is_looked_for():
    page = (EXPERIMENTS / "DATA.md").read_text()
    plans = "".join(path.read_text() for path in EXPERIMENTS.glob("*/experiment.toml"))
    corpora = [f"{name}/" for name in HUB if f'"{name}"' in plans]
    assert "wikitext-2/" in corpora
    for name in (*FILES.values(), *(f"gpt2-bpe/{file}" for file in GPT2_FILES), *corpora):
        assert f"`{name}`" in page, name
