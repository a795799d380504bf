"""A step as a GPU gets it, on tensors without values: it never waits for the device, and gives it few operations."""

import pytest
import torch

from device_work import DeviceWork, WaitError, count_step

LAYERS = 2
META = torch.device("meta")


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_packed_step_never_waits_and_starts_few_operations(precision: str, dropout: float) -> None:
    (one, two), _ = count_step("tiny", precision=precision, dropout=dropout)
    each = two - one
    # 62 a layer with dropout in 16 bits, 17 of them to add up gradients; 60 for the embedding, the first
    # tokens of the last states, the head and the loss.
    assert each.total() <= 65 * LAYERS + 65
    assert each["_flash_attention_forward" if precision != "fp32" else "_efficient_attention_forward"] == LAYERS
    # Weights are cast once a step: what is cast in a micro-batch are states and gradients.
    assert each["_to_copy"] <= 12 * LAYERS + 8
    # One product for query, key and value, two for the last layer's, and no gradient of an index, full of zeros.
    assert each["addmm"] <= 4 * LAYERS + 1 + 2
    assert each["index_put"] == each["_index_put_impl_"] == each["_scaled_dot_product_attention_math"] == 0


@pytest.mark.parametrize("shape", ["tiny", "distilbert", "modernbert-base", "mpnet-base", "deberta-v3-base"])
def test_no_architecture_waits_in_a_padded_step(shape: str) -> None:
    count_step(shape, packed=False, layers=2)


@pytest.mark.parametrize("shape", ["distilbert", "modernbert-base", "mpnet-base", "deberta-v3-base"])
def test_no_architecture_waits_in_a_packed_step(shape: str) -> None:
    count_step(shape, layers=2)


def test_a_window_without_a_kernel_does_not_wait_either_and_makes_no_square_mask() -> None:
    """In float32, as on a T4: of three layers the second and third are local, and the third has first tokens only."""
    (one, two), _ = count_step("modernbert-base", precision="fp32", layers=3, lengths=((150, 24), (140, 7)))
    each = two - one
    assert each["_efficient_attention_forward"] == 1
    # In one layer: query, key and value, forward and backward, and the numbers of the texts.
    assert each["constant_pad_nd"] == 7
    assert each["unfold_backward"] == 2


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: torch.empty(3).copy_(x),
    ],
)
def test_whatever_reads_a_value_is_refused(read) -> None:
    with DeviceWork("meta"), pytest.raises(WaitError):
        read(torch.empty(3, device=META))
