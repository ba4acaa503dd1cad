"""vLLM engines in the processes of a torchrun: prompts in, responses out as they finish."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from megaprune.config.run import EngineConfig
from megaprune.distributed import start_times
from megaprune.distributed.device import random_numbers_kept
from megaprune.engine_versions import VLLM, check_usable
from megaprune.errors import InputError
from megaprune.generation import memory, process
from megaprune.parallelism import cache_bytes, engine_layout
from megaprune.weights.files.hf_folder import HfFolder
from megaprune.weights.layouts import Layout
from megaprune.weights.rope import engine_overrides

if TYPE_CHECKING:
    from vllm import CompletionOutput


@dataclass(frozen=True)
class Prompt:
    """What is to be answered.

    Args:
        tokens: ids.
        name: the same whenever the same prompt of a run is sampled again.
        numbers: which responses are wanted; None for 0 to n - 1.
        limit: tokens of a response, at most; None for that of all.
    """

    tokens: Sequence[int]
    name: str
    numbers: Sequence[int] | None = None
    limit: int | None = None


@dataclass(frozen=True)
class SamplingOptions:
    """How responses are drawn.

    Args:
        n: responses to each prompt.
        limit: tokens of a response, at most.
        temperature, top_p: of the distribution; temperature 0 takes the likeliest token.
        seed: with a prompt's name and a response's number it fixes the random numbers of that
            response, whatever else is generated beside it and on however many engines.
        stop: token ids that end a response, besides the model's own end.
        ignore_end: go on to `limit` whatever the model says.
    """

    n: int = 1
    limit: int = 4096
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[int, ...] = ()
    ignore_end: bool = False


@dataclass(frozen=True)
class Response:
    """One response.

    Args:
        prompt: number of its prompt in what was asked for.
        number: of the prompt's responses.
        tokens: [L] int64, the end token included if there is one.
        log_probs: [L] float32, of the tokens under the distribution they were drawn from.
        finish_reason: "stop" if the model ended it, "length" if the limit did.
    """

    prompt: int
    number: int
    tokens: np.ndarray
    log_probs: np.ndarray
    finish_reason: str


@dataclass(frozen=True)
class Progress:
    """How far a call of `generate` is: responses, their tokens so far, seconds since it began."""

    finished: int
    total: int
    tokens: int
    seconds: float

    def __str__(self) -> str:
        rate = self.tokens / self.seconds if self.seconds else 0.0
        return f"{self.finished}/{self.total} responses, {self.tokens} tokens, {rate:.0f} tokens/s"


class Generator:
    """This rank's part of its engine. Building it is collective over all ranks.

    The default process group must be there. Ranks [0, tp) are engine 0, and so on; the ranks of an
    engine call its methods with the same arguments. On a GPU, vLLM wants its share of the memory to
    be free when it starts: build it first, let it `sleep`, then build the actor.

    Args:
        folder: a Hugging Face folder, whose weights the engine starts with.
        config: how the engines are built.
        dtype: of weights and activations.
        max_length: tokens of prompt and response together, at most.
        dummy_weights: start with random weights instead, and read none. All of `parameters` must
            be written before anything is generated.

    Raises:
        InputError: vLLM is not installed or too old, or the model or world cannot be divided so.
    """

    def __init__(
        self,
        folder: Path,
        config: EngineConfig,
        dtype: torch.dtype,
        max_length: int,
        *,
        dummy_weights: bool = False,
    ):
        check_usable(VLLM)
        weights = HfFolder(folder)
        model = weights.model
        world = dist.get_world_size()
        self.layout: Layout = engine_layout(model, config.tp, world)
        self.config, self.max_length = config, max_length
        self._calls = 0
        self.engines = world // config.tp
        self.engine = dist.get_rank() // config.tp
        """The number of this rank's engine."""
        name = str(dtype).removeprefix("torch.")
        sequence_bytes = cache_bytes(model, config.tp, name, max_length)
        with process.unchanged():
            process.prepare()
            from vllm import LLM

            start_times.lap("vLLM's import")
            with process.frozen_kept():
                self._llm = LLM(
                    model=str(folder),
                    hf_overrides=engine_overrides(weights.config),
                    load_format="dummy" if dummy_weights else "auto",
                    dtype=name,
                    tensor_parallel_size=config.tp,
                    distributed_executor_backend="external_launcher",
                    max_model_len=max_length,
                    max_num_seqs=config.max_num_seqs,
                    enforce_eager=config.enforce_eager,
                    # Of the distribution that is drawn from, temperature included.
                    logprobs_mode="processed_logprobs",
                    generation_config="vllm",  # the folder's own temperature and top_p stay out
                    disable_log_stats=True,
                    use_tqdm_on_load=False,
                    seed=0,
                    **memory.options(config, max_length, sequence_bytes),
                )
        start_times.lap("vLLM")

    def parameters(self) -> dict[str, torch.Tensor]:
        """This rank's parameters, named as in `layout`; written in place, they are used at once."""
        worker = self._llm.llm_engine.model_executor.driver_worker.worker
        return {n: p.detach() for n, p in worker.model_runner.model.named_parameters()}

    def load_weights(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Load whole Hugging Face tensors, each rank taking its part: vLLM's own, slower way."""
        worker = self._llm.llm_engine.model_executor.driver_worker.worker
        worker.model_runner.model.load_weights(tensors)
        self.weights_changed()

    def weights_changed(self) -> None:
        """Forget what was computed with other weights; requests in flight are computed again."""
        if not self._llm.reset_prefix_cache(reset_running_requests=True):
            raise RuntimeError("vLLM did not reset its prefix cache")

    def sleep(self) -> None:
        """Give memory to the model in training (on a GPU), between two calls of `generate`.

        Raises:
            RuntimeError: responses are still being generated; sleeping would lose them.
        """
        if self._llm.llm_engine.has_unfinished_requests():
            raise RuntimeError("responses are being generated: take or close them before sleep()")
        memory.sleep(self._llm)

    def wake_weights(self) -> None:
        """Make `parameters` writable again after `sleep`; then write them, then `wake_cache`."""
        memory.wake_weights(self._llm)

    def wake_cache(self) -> None:
        """Make `generate` possible again after `sleep`."""
        memory.wake_cache(self._llm)

    def close(self) -> None:
        """End the engine and free its memory. Call it before torch.distributed ends."""
        with process.default_group_kept(), process.frozen_kept():
            self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        process.release()

    def share(self, count: int) -> range:
        """Which of `count` prompts are this engine's."""
        return range(self.engine, count, self.engines)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingOptions,
        progress: Callable[[Progress], Any] = lambda _: None,
    ) -> Iterator[Response]:
        """Generate, and hand out each response as it finishes.

        Between two responses weights may be written, if `weights_changed` is called then. Whoever
        stops early ends what is still being generated.

        Args:
            prompts: of this engine.
            sampling: for all of them.
            progress: told how far it is, after each response.

        Raises:
            InputError: a prompt is empty or leaves no room for a response.
        """
        asked: dict[str, tuple[int, int]] = {}
        engine = self._llm.llm_engine
        lengths: dict[str, int] = {}
        start = time.perf_counter()
        finished = 0
        left: set[str] = set()
        try:
            asked.update(self._ask(prompts, sampling, left))
            while left:
                with random_numbers_kept():  # it draws some besides each request's own
                    outputs = engine.step()
                for output in outputs:
                    lengths[output.request_id] = len(output.outputs[0].token_ids)
                done = [output for output in outputs if output.finished]
                # Every rank of an engine hands them out in the same order.
                for output in done:
                    left.discard(output.request_id)
                    finished += 1
                    yield _response(*asked[output.request_id], output.outputs[0])
                if done:
                    seconds = time.perf_counter() - start
                    progress(Progress(finished, len(asked), sum(lengths.values()), seconds))
        finally:
            if left:
                engine.abort_request(list(left))

    def _ask(
        self, prompts: Sequence[Prompt], sampling: SamplingOptions, asked: set[str]
    ) -> dict[str, tuple[int, int]]:
        """Give the engine one request for each response; (prompt, number) by request.

        Args:
            asked: names of the requests that the engine has, added as it gets them.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        for prompt in prompts:
            _check(prompt, prompt.limit or sampling.limit, self.max_length)
        numbers = {}
        self._calls += 1
        for index, prompt in enumerate(prompts):
            for number in range(sampling.n) if prompt.numbers is None else prompt.numbers:
                name = f"{self._calls}.{index}.{number}"
                numbers[name] = (index, number)
                options = SamplingParams(
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=prompt.limit or sampling.limit,
                    seed=_seed(sampling.seed, prompt.name, number),
                    stop_token_ids=list(sampling.stop),
                    ignore_eos=sampling.ignore_end,
                    logprobs=0,  # of the token that was drawn
                    detokenize=False,
                    output_kind=RequestOutputKind.CUMULATIVE,
                )
                self._llm.llm_engine.add_request(
                    name, {"prompt_token_ids": list(prompt.tokens)}, options
                )
                asked.add(name)
        return numbers


def _check(prompt: Prompt, limit: int, max_length: int) -> None:
    if limit < 1:
        raise InputError(f"a limit of {limit} tokens; expected 1 or more")
    if not prompt.tokens:
        raise InputError(f"prompt {prompt.name!r} is empty; expected one token or more")
    if len(prompt.tokens) + limit > max_length:
        raise InputError(
            f"prompt {prompt.name!r} has {len(prompt.tokens)} tokens; with a limit of {limit} "
            f"that is more than max_length={max_length}"
        )


def _response(prompt: int, number: int, output: CompletionOutput) -> Response:
    tokens = list(output.token_ids)
    steps = zip(tokens, output.logprobs, strict=True)
    return Response(
        prompt,
        number,
        np.array(tokens, np.int64),
        np.array([step[token].logprob for token, step in steps], np.float32),
        str(output.finish_reason),
    )


def _seed(seed: int, prompt: str, number: int) -> int:
    """A seed of a response's own, which other prompts and samples do not move."""
    text = f"{seed}\0{prompt}\0{number}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1
