"""What the extra `onnx` is needed for, and what is said where it is missing."""

import pytest

from leantune.inference import onnx_export
from leantune.system.errors import ModelError


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "PACKAGES", ("numpy", "no_such_package"))
    with pytest.raises(ModelError, match=r"\(no_such_package not found\): pip install 'leantune\[onnx\]'"):
        onnx_export.require_onnx()
