"""The Hugging Face cache and the W&B login, without a look at the network."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from megaprune.doctor.finding import Finding
from megaprune.doctor.machine import Machine

TRUE = {"1", "true", "yes", "on"}


def check_hf_cache(_: Machine) -> Finding:
    """Where models and data sets from the hub are kept."""
    variables = os.environ
    home = variables.get("XDG_CACHE_HOME", "~/.cache")
    root = variables.get("HF_HOME", f"{home}/huggingface")
    said = variables.get("HF_HUB_CACHE") or variables.get("HUGGINGFACE_HUB_CACHE") or f"{root}/hub"
    place = Path(os.path.expandvars(said)).expanduser()
    offline = variables.get("HF_HUB_OFFLINE", "").lower() in TRUE
    words = "; HF_HUB_OFFLINE is set: nothing is fetched" if offline else ""
    if not place.exists():
        near = place.absolute()
        while not near.exists():
            near = near.parent
        if not os.access(near, os.W_OK):
            found = f"{place} is not there, and {near} is not writable{words}"
            return Finding("HF cache", "wrong", found, "export HF_HOME=DIR  # a writable folder")
        return Finding("HF cache", "missing", f"{place} is made at first use{words}")
    if not os.access(place, os.W_OK) and not offline:
        found = f"{place} is not writable"
        mend = "export HF_HOME=DIR  # a writable folder; or HF_HUB_OFFLINE=1, to read this one"
        return Finding("HF cache", "wrong", found, mend)
    return Finding("HF cache", "ok", f"{place}{words}")


def check_wandb_login(_: Machine) -> Finding:
    """Whether there is a key, not whether it is a good one."""
    name = "W&B login"
    mode = os.environ.get("WANDB_MODE", "").lower()
    if mode in ("offline", "disabled") or os.environ.get("WANDB_DISABLED", "").lower() in TRUE:
        return Finding(name, "ok", f"none is needed: WANDB_MODE={mode or 'disabled'}")
    if os.environ.get("WANDB_API_KEY"):
        return Finding(name, "ok", "a key in WANDB_API_KEY")
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    said = os.environ.get("NETRC")
    for file in (Path(said),) if said else (Path("~/.netrc"), Path("~/_netrc")):
        try:
            found = netrc.netrc(str(file.expanduser())).hosts.get(host)
        except FileNotFoundError:
            continue
        except (OSError, netrc.NetrcParseError) as error:
            reason = error.msg if isinstance(error, netrc.NetrcParseError) else error.strerror
            return Finding(name, "wrong", f"{file}: {reason}", "wandb login")
        if found:
            return Finding(name, "ok", f"a key for {host} in {file}")
    mend = "wandb login  # or wandb.mode=offline, and wandb sync later"
    return Finding(name, "missing", f"no key for {host}; needed for wandb.mode=online", mend)
