"""The choice of a kernel for packed rows, which needs no GPU, and how it is proven, with a kernel that is at hand."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from leantune.batches.packing import make_packing
from leantune.encoder import packed_kernels
from leantune.encoder.packed_kernels import Facts, choose_kernel, kernel_error, proves
from small_runs import CPU

A100 = Facts(device="cuda", capability=(8, 0), dtype=torch.bfloat16, head_width=64, dropout=False, window=False)
T4 = replace(A100, capability=(7, 5), dtype=torch.float16)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (A100, "varlen"),
        (replace(A100, dropout=True), "flash"),
        (replace(A100, window=True), "flash"),
        (replace(A100, capability=(9, 0), dtype=torch.float16), "varlen"),
        (replace(A100, head_width=256), "efficient"),
        (replace(A100, dtype=torch.float32), "efficient"),
        (replace(A100, dtype=torch.float32, window=True), "groups"),
        (replace(A100, head_width=20), "groups"),
        (T4, "efficient"),
        (replace(T4, dropout=True), "efficient"),
        (replace(T4, window=True), "groups"),
        (replace(T4, dtype=torch.bfloat16), "groups"),
        (replace(A100, dtype=torch.float64), "groups"),
        (replace(A100, capability=None), "groups"),
        (replace(A100, device="mps", capability=None), "groups"),
        (replace(A100, device="cpu", capability=None), "groups"),
    ],
)
def test_the_kernel_follows_from_the_facts(facts: Facts, expected: str) -> None:
    assert choose_kernel(facts) == expected


def test_what_drops_weights_or_has_a_window_is_never_given_to_a_kernel_that_has_not() -> None:
    for capability, dtype, width, dropout, window in product(
        [None, (3, 7), (6, 0), (7, 5), (8, 0), (8, 9), (9, 0), (12, 0)],
        [torch.float32, torch.float16, torch.bfloat16, torch.float64],
        [8, 20, 32, 64, 80, 128, 192, 256, 512],
        [False, True],
        [False, True],
    ):
        facts = Facts(
            device="cuda", capability=capability, dtype=dtype, head_width=width, dropout=dropout, window=window
        )
        kernel = choose_kernel(facts)
        assert not (kernel == "varlen" and dropout)
        assert not (kernel in ("varlen", "efficient") and window)
        if kernel in ("varlen", "flash"):
            assert capability is not None
            assert capability >= (8, 0)


def exact(_: Any, query: Any, key: Any, value: Any, __: Any, *, scale: float, window: int | None, **___: Any) -> Any:
    return packed_kernels._formula(query, key, value, window=window, scale=scale)


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_kernel_that_computes_the_formula_is_proven(
    dtype: torch.dtype, window: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_kernels, "attend_packed", exact)
    assert proves.__wrapped__("flash", replace(A100, dtype=dtype, window=window), CPU)


@pytest.mark.parametrize("bug", ["a text more", "scale", "no window", "wider window", "error"])
def test_a_kernel_that_computes_something_else_is_not(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(
        kernel: Any, query: Any, key: Any, value: Any, packing: Any, *, scale: float, window: int | None, **_: Any
    ) -> Any:
        if bug == "error":
            raise RuntimeError("no kernel image is available")
        if bug == "a text more":
            monkeypatch.setattr(packed_kernels, "PROVEN_LENGTHS", (220, 9, 1))
        scale *= 1.2 if bug == "scale" else 1
        window = {"no window": None, "wider window": (window or 0) + 1}.get(bug, window)
        try:
            return packed_kernels._formula(query, key, value, window=window, scale=scale)
        finally:
            monkeypatch.setattr(packed_kernels, "PROVEN_LENGTHS", (150, 70, 9, 1))

    monkeypatch.setattr(packed_kernels, "attend_packed", wrong)
    assert not proves.__wrapped__("flash", replace(A100, window=True), CPU)


def test_the_error_of_an_exact_kernel_is_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_kernels, "attend_packed", exact)
    assert 0 < kernel_error("flash", replace(A100, dtype=torch.float32), CPU) < 1e-6


def test_what_follows_the_texts_is_a_text_of_its_own() -> None:
    """A kernel leaves what no bounds enclose as it is: whatever was in memory, perhaps NaN."""
    assert make_packing([9, 4], CPU, row=16).bounds.tolist() == [0, 9, 13, 16]
    assert make_packing([9, 7], CPU, row=16).bounds.tolist() == [0, 9, 16]
    assert make_packing([1, 1], CPU, row=16).longest == 14
    firsts = make_packing([9, 4], CPU, row=16).to_firsts()
    assert [firsts.queries.tolist(), firsts.keys.tolist(), firsts[2:]] == [[0, 1, 2], [0, 9, 13], (1, 9)]
