"""A weight sync on paper: what moves from the Megatron actor to the vLLM rollouts.

    python benchmarks/copy_plan.py [--model QwQ-32B] [--layout TP PP DP VLLM_TP ...]

No weights, no GPU: every figure is counted from the plan. "received" is what each GPU gets from
others in one sync, in bf16; "whole" is what it would get if every full tensor were gathered on it,
less what it holds: the way of gathering exporters.
"""

from __future__ import annotations

import argparse
import time
from math import prod

from megaprune.recipes.models import CONFIGS, shape_of
from megaprune.weights.copy_plan import plan
from megaprune.weights.layouts import Pipeline, megatron_layout, vllm_layout

LAYOUTS = [  # Megatron tp, pp, dp -> vLLM tp
    (8, 1, 4, 8),
    (8, 2, 2, 8),
    (8, 4, 1, 8),
    (4, 1, 8, 8),
    (4, 2, 4, 8),
    (4, 4, 2, 8),
    (4, 8, 1, 8),
]
BYTES = 2  # of a bf16 element


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=CONFIGS, default="QwQ-32B")
    parser.add_argument(
        "--layout",
        type=int,
        nargs=4,
        action="append",
        metavar=("TP", "PP", "DP", "VLLM_TP"),
        help="a layout to plan, instead of the 32-GPU ones; may be given more than once",
    )
    options = parser.parse_args()
    model = shape_of(options.model)
    whole = sum(map(prod, model.tensors().values())) * BYTES
    print(f"{options.model}: {len(model.tensors())} tensors, {whole / 1e9:.2f} GB in bf16")
    print(
        "Megatron         vLLM       received by a GPU, GB      lower   whole   sent by a GPU, GB"
        "   messages   plain copies  permuting   planned"
    )
    print(
        "tp pp dp  ranks  tp x n     min     mean    max        bound   GB      min     max      "
        "   per GPU    of parameters  copies     in s"
    )
    for tp, pp, dp, vllm_tp in options.layout or LAYOUTS:
        ranks = tp * pp * dp
        start = time.perf_counter()
        the_plan = plan(
            megatron_layout(model, tp, Pipeline(pp), dp),
            vllm_layout(model, vllm_tp, ranks // vllm_tp),
        )
        seconds = time.perf_counter() - start
        received, sent = (
            [n * BYTES / 1e9 for n in side] for side in (the_plan.received(), the_plan.sent())
        )
        bound = [n * BYTES / 1e9 for n in the_plan.lower_bound()]
        held = whole / 1e9 / tp / pp
        print(
            f"{tp:2} {pp:2} {dp:2}  {ranks:5}  {vllm_tp} x {ranks // vllm_tp}"
            f"   {min(received):6.3f}  {sum(received) / ranks:6.3f}  {max(received):6.3f}"
            f"     {'equal' if received == bound else 'ABOVE'}   {whole / 1e9 - held:5.1f}"
            f"   {min(sent):6.3f}  {max(sent):6.3f}"
            f"   {the_plan.messages() / ranks:8.2f}"
            f"   {len(the_plan.transfers) - the_plan.permuting():13}"
            f"   {the_plan.permuting():9}   {seconds:7.1f}"
        )


if __name__ == "__main__":
    main()
