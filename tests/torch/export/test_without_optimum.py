"""optimum is missing, or does not go with the transformers that is there."""

import importlib
import sys

import pytest

from tinyv_cli.errors import UsageError


@pytest.mark.parametrize("missing", ["optimum", "transformers"])
def test_an_exporter_that_cannot_be_loaded_is_an_error_with_the_command_that_helps(
    missing, monkeypatch
):
    for name in list(sys.modules):
        if name.partition(".")[0] == "optimum" or name == "quantize.export.onnx_file":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError) as caught:
        importlib.import_module("quantize.export.onnx_file")
    assert caught.value.problem.startswith("optimum's exporter cannot be loaded: ")
    assert "pip install 'tinyv[export]'" in caught.value.hint
