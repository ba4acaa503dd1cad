"""Runs `megaprune` once for each line of standard input, in a fork: imports are paid for once.

A line: {"arguments": [...], "said": FILE, "folder": to run in}; the answer is the exit status.
Importing is all that happens before the fork: no thread runs, and nothing was computed.
"""

import json
import os
import signal
import sys

import pyarrow.parquet  # noqa: F401
import torch  # noqa: F401
from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401

import megaprune.data
import megaprune.grading
import megaprune.trainer.run_dir
import megaprune.weights.files.hf_folder  # noqa: F401
from megaprune.cli.main import main

SECONDS = 60


def run(arguments, said, folder):
    """In the fork; does not return."""
    signal.alarm(SECONDS)  # what should have been refused, and runs
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(folder)
    status = 99
    try:
        status = main(arguments)
    except SystemExit as error:
        status = error.code
    finally:
        if status == 99:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


for line in sys.stdin:
    child = os.fork()
    if not child:
        run(**json.loads(line))
    _, ended = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(ended), flush=True)
