"""The tokenizer of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from megaprune.distributed.process import importing
from megaprune.errors import InputError
from megaprune.weights.untrusted import check_stays_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

_MOST_BYTES = 256 << 20
"""Of a file. Those of vocabularies of 262,144 words have about 35 MB."""

_PARTS = ("tokenizer", "vocab", "merges", "added_tokens", "special_tokens", "chat_template")
"""What the names of a tokenizer's own files begin with."""

_READ = (".json", ".jinja", ".model", ".txt", ".tiktoken")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a local folder; nothing is fetched and no code of it is run.

    Raises:
        InputError: the folder or its tokenizer is not there, or cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; expected a Hugging Face model folder")
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        # Transformers would make an empty tokenizer without a word.
        raise InputError(
            f"{folder} has no tokenizer: none of {', '.join(_VOCABULARIES)}; copy the tokenizer "
            f"files of the model into it"
        )
    for path in [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]:
        # A template that is somebody's key would be in every prompt.
        if path.suffix in _READ:
            check_stays_in(path, folder)
        is_part = path.name.startswith(_PARTS) and path.is_file()
        if is_part and (size := path.stat().st_size) > _MOST_BYTES:
            raise InputError(
                f"{path} has {size} bytes; expected {_MOST_BYTES} at most of a tokenizer's file"
            )
    with importing():
        from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    # Of any type, from a broken file: the parser raises just Exception, or panics.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise InputError(
            f"the tokenizer in {folder} cannot be read ({type(error).__name__}: {error}); copy "
            f"the tokenizer files of the model into it again"
        ) from error
    return tokenizer


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a chat template.

    Raises:
        InputError: there is none.
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path} has no chat template; put one into "
            f"chat_template.jinja, or into tokenizer_config.json as chat_template, or train from "
            f"a chat model"
        )
