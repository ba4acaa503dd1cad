"""Files of data-set repositories on the Hugging Face hub, at one commit."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    import httpx
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().dataset_info(repository, revision=revision)
        paths = sorted(sibling.rfilename for sibling in info.siblings or ())
        assert info.sha is not None
        chosen = _choose(repository, pattern, paths, endings)
        files = tuple(
            Path(hf_hub_download(repository, path, repo_type="dataset", revision=info.sha))
            for path in chosen
        )
    except GatedRepoError as error:
        raise InputError(
            f"hub:{repository} is given to those alone who accepted its terms; accept them there, "
            f"log in (hf auth login), and run this again"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"hub:{repository} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"the hub has no data set {repository}, or it is private; check the name, or log in "
            f"(hf auth login)"
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"hub:{repository} cannot be fetched ({type(error).__name__}: {reason}). Without a "
            f"network, or with HF_HUB_OFFLINE=1, fetch its files elsewhere and give them: "
            f"--input FILE"
        ) from error
    return HubFiles(files, info.sha)


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
