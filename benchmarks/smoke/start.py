"""The process group of a part: one rank, on its device."""

from __future__ import annotations

import torch
import torch.distributed as dist

from megaprune.distributed import device


def start() -> None:
    """Take the device and begin the default process group, as `world.run` does."""
    if device.device().type == "cuda":
        torch.cuda.set_device(device.device())
    dist.init_process_group(device.backend())
