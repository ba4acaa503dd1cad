"""Every call into vLLM against the sources of its CUDA build, and of the build that is installed.

The calls are read from megaprune's own source (uses.py): a new one is looked at as it is written.
"""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

import wheels
from sources import Sources
from uses import Uses, own_code

HOLDS = {
    # The engine's loop runs in this process, with the executor that torchrun's ranks have.
    "LLMEngine.engine_core": "vllm.v1.engine.core_client.InprocClient",
    "LLMEngine.model_executor": "vllm.v1.executor.uniproc_executor.ExecutorWithExternalLauncher",
    "WorkerWrapperBase.worker": "vllm.v1.worker.gpu_worker.Worker",
    "GPUModelRunner.model": "vllm.model_executor.models.qwen2.Qwen2ForCausalLM",
}
"""What attributes hold in our engines, where vLLM's annotations name an interface or nothing."""

RUNNERS = {
    "V2": "vllm.v1.worker.gpu.model_runner.GPUModelRunner",  # CUDA's
    "V1": "vllm.v1.worker.gpu_model_runner.GPUModelRunner",  # where V2 lacks something
}


def installed():
    spec = importlib.util.find_spec("vllm")
    if spec is None:
        pytest.skip("vLLM is not installed")
    return Path(spec.origin).parents[1]


def read(folder, runner):
    return Sources(folder, "vllm", {**HOLDS, "Worker.model_runner": RUNNERS[runner]})


@pytest.fixture(scope="module", params=["CUDA", "installed"])
def folder(request, wheel):
    return wheel(*wheels.VLLM) if request.param == "CUDA" else installed()


@pytest.fixture(scope="module", params=RUNNERS)
def sources(folder, request):
    return read(folder, request.param)


@pytest.fixture(scope="module")
def sources_once():
    """Of the CUDA build, or where it cannot be had, of that which is installed."""
    try:
        return read(wheels.files(*wheels.VLLM), "V2")
    except wheels.Unavailable:
        return read(installed(), "V2")


CODE = own_code("vllm")


def problems(sources, code):
    uses = Uses(sources, code)
    return [*uses.problems, *_of_sleep(sources, uses), *_of_variables(sources, code)]


def _of_sleep(sources, uses):
    """All that sleeps is woken, and nothing else is."""
    sleeping = sources.constants("vllm.v1.executor.abstract", "SLEEP_TAGS")
    pools = {
        keyword.value.value
        for node in ast.walk(sources.parsed("vllm.v1.worker.gpu_worker"))
        for keyword in getattr(node, "keywords", [])
        if keyword.arg == "tag" and isinstance(keyword.value, ast.Constant)
    }
    calls = [call for call in uses.calls if call.callee.endswith(".wake_up")]
    woken = {tag for call in calls for tag in call.constants["tags"]}
    if woken != sleeping or not woken <= pools:
        yield f"{sorted(woken)} are woken, {sorted(sleeping)} sleep, {sorted(pools)} have a pool"


def _of_variables(sources, code):
    """Environment variables are those that vLLM reads."""
    known = {
        node.value
        for node in ast.walk(sources.parsed("vllm.envs"))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for module, text in code.items():
        for name in sorted(set(re.findall(r'"(VLLM_\w+)"', text)) - known):
            yield f"{module}: vLLM has no variable {name}"


def test_every_use_is_one_that_vllm_has(sources):
    assert problems(sources, CODE) == []


def test_the_uses_are_found(sources):
    """What megaprune stands on, so that a reader that overlooks it is seen."""
    uses = Uses(sources, CODE)
    called = {call.callee for call in uses.calls}
    for name in ("LLM", "sleep", "wake_up", "reset_prefix_cache"):
        assert f"vllm.entrypoints.llm.{name}" in called
    for name in ("step", "add_request", "abort_request", "has_unfinished_requests"):
        assert f"vllm.v1.engine.llm_engine.{name}" in called
    assert "vllm.logprobs.Logprob.logprob" in uses.attributes
    assert f"{sources.holds['Worker.model_runner']}.model" in uses.attributes


FAULTS = {
    "a keyword of a call": ("reset_running_requests=True", "reset_running=True"),
    "a keyword of LLM": ("max_num_seqs=config", "max_sequences=config"),
    "a keyword that memory.py gives to LLM": ('"enable_sleep_mode"', '"sleep_mode"'),
    "a keyword of SamplingParams": ("ignore_eos=", "ignore_end="),
    "a value of a keyword": ('"processed_logprobs"', '"processed"'),
    "an executor": ('"external_launcher"', '"torchrun"'),
    "a tag": ('tags=["kv_cache"]', 'tags=["cache"]'),
    "a tag that is not woken": ('llm.wake_up(tags=["weights"])', "pass"),
    "a positional argument": ("llm_engine.add_request(\n                    name, ", "llm_engine.add_request("),
    "an attribute on the way to the model": ("driver_worker.worker", "driver_worker.inner"),
    "the model": ("model_runner.model.load_weights", "model_runner.net.load_weights"),
    "a method of the engine's core": ("engine_core.shutdown()", "engine_core.close()"),
    "a method that is replaced": ("Launcher._distributed_args =", "Launcher._arguments ="),
    "its arguments": ("= lambda self: (address", "= lambda: (address"),
    "a function that is replaced": ("check_cpu_sgl_kernel =", "check_sgl ="),
    "a kind of output": ("RequestOutputKind.CUMULATIVE", "RequestOutputKind.ALL"),
    "a field of an output": ("output.finish_reason", "output.reason"),
    "a field of a log-prob": ("[token].logprob ", "[token].log_prob "),
    "a module": ("vllm.v1.executor.uniproc_executor", "vllm.v1.executor.uniproc"),
    "a name of a module": ("import ExecutorWithExternalLauncher", "import ExternalLauncher"),
    "a variable": ('"VLLM_ENABLE_V1_MULTIPROCESSING"', '"VLLM_MULTIPROCESSING"'),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(sources_once, fault):
    """Each put into megaprune's text; so would be seen what vLLM renames."""
    right, wrong = FAULTS[fault]
    faulty = {module: text.replace(right, wrong) for module, text in CODE.items()}
    assert faulty != CODE
    seen = problems(sources_once, faulty)
    print(*seen, sep="\n")
    assert seen
