"""The Hugging Face hub: files of data sets, and models, each at one commit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from megaprune.errors import InputError

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SHOWN = 10


@dataclass(frozen=True)
class HubFiles:
    """Files of a repository in the local cache, and the commit that they are of."""

    files: tuple[Path, ...]
    commit: str


def fetch(repository: str, pattern: str, revision: str | None, endings: Sequence[str]) -> HubFiles:
    """Fetch those files of a repository that are not in huggingface_hub's cache.

    Args:
        repository: OWNER/NAME.
        pattern: shell pattern of paths there; "": its one data file.
        revision: branch, tag or commit; the main branch if None.
        endings: of data files.

    Raises:
        InputError: no such repository, revision or file; several where one is meant; no network.
    """
    if not _NAME.fullmatch(repository):
        raise InputError(f"hub:{repository}; expected hub:OWNER/NAME or hub:OWNER/NAME:PATTERN")
    from huggingface_hub import HfApi, hf_hub_download

    without = "fetch its files elsewhere and give them: --input FILE"
    with _asking(f"hub:{repository}", f"data set {repository}", revision, without):
        info = HfApi().dataset_info(repository, revision=revision)
        paths = sorted(sibling.rfilename for sibling in info.siblings or ())
        assert info.sha is not None
        chosen = _choose(repository, pattern, paths, endings)
        files = tuple(
            Path(hf_hub_download(repository, path, repo_type="dataset", revision=info.sha))
            for path in chosen
        )
    return HubFiles(files, info.sha)


def find_model(model: str) -> str:
    """Return the folder of a model, which is fetched if it is the name of one on the hub.

    A model is kept in huggingface_hub's cache, in a folder that is named after its commit.

    Args:
        model: a folder, or OWNER/NAME. What is there, or could be in a folder that is, is no name.

    Raises:
        InputError: neither a folder nor a model of this name can be had.
    """
    path = Path(model)
    if path.exists() or path.is_symlink() or path.parent.is_dir() or not _NAME.fullmatch(model):
        return model
    from huggingface_hub import snapshot_download

    what = f"model={model}: there is no such folder, and as a model of the hub it"
    without = (
        f"fetch it elsewhere (hf download {model} --local-dir {path.name}) and give its folder"
    )
    with _asking(what, f"model {model}", None, without):
        return snapshot_download(model, allow_patterns=list(_MODEL_FILES))


_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken")
"""No code, and no weights that are pickles."""


@contextmanager
def _asking(name: str, what: str, revision: str | None, without: str) -> Iterator[None]:
    """Say what is wrong with an answer of the hub in words for users.

    Args:
        name: what was asked for, as it was given.
        what: it is, in words.
        revision: that was asked for.
        without: what to do without the hub.
    """
    # HTTPError is the HTTP library's: httpx before version 2.0 of huggingface_hub, httpx2 since.
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise InputError(
            f"{name} is given to those alone who accepted its terms; accept them there, "
            f"log in (hf auth login), and run this again"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{name} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{name} cannot be found: the hub has no {what}, or it is private; check the name, or "
            f"log in (hf auth login)"
        ) from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name} cannot be fetched ({type(error).__name__}: {reason}). Without a "
            f"network, or with HF_HUB_OFFLINE=1, {without}"
        ) from error


def _choose(
    repository: str, pattern: str, paths: Sequence[str], endings: Sequence[str]
) -> list[str]:
    data = [path for path in paths if Path(path).suffix.lower() in endings]
    chosen = [path for path in data if fnmatchcase(path, pattern or "*")]
    shown = ", ".join(data[:_SHOWN]) + (f" and {len(data) - _SHOWN} more" if data[_SHOWN:] else "")
    if not chosen:
        expected = f"no data file like {pattern}" if pattern else f"no file {', '.join(endings)}"
        raise InputError(f"hub:{repository} has {expected}; it has {shown or 'none at all'}")
    if not pattern and len(chosen) > 1:
        raise InputError(
            f"hub:{repository} has several data files: {shown}; say which, as "
            f"hub:{repository}:PATTERN"
        )
    return chosen
