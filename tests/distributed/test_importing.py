"""What engines are kept from importing, and that everything is afterwards as it was."""

import sys

import pytest
import torch

from megaprune.distributed.process import hidden, importing


def double(x):
    return 2 * x


def test_functions_stay_as_they_are_on_a_cpu():
    compiles = torch.compile
    with importing():
        plain, with_options = torch.compile(double), torch.compile(fullgraph=True)(double)
        given = torch.compile(double, dynamic=True, backend="eager")
    assert torch.compile is compiles
    left = {function is double for function in (plain, with_options, given)}
    assert left == {not torch.cuda.is_available()}


def test_all_is_as_before_after_an_error():
    compiles = torch.compile
    with pytest.raises(ZeroDivisionError), importing():
        raise ZeroDivisionError
    assert torch.compile is compiles
    assert sys.modules.get("wandb", "absent") is not None


def test_a_hidden_module_is_an_import_error_within(monkeypatch, tmp_path):
    (tmp_path / "a_module_to_hide.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    with hidden("a_module_to_hide"), pytest.raises(ImportError):
        import a_module_to_hide
    import a_module_to_hide

    with hidden("a_module_to_hide"):  # whoever has it may keep it
        import a_module_to_hide as again
    assert again is a_module_to_hide
    assert sys.modules.pop("a_module_to_hide").value == 3
