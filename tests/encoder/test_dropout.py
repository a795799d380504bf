"""Dropout from random bits: the right share, independent, exact in the backward pass, and of the seed."""

import pytest
import torch
from torch import nn

from leantune.encoder.dropout import WORDS, BitDropout, draw_kept, drop, kept_scale, split_mix, use_bit_dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.03])
def test_the_right_share_is_dropped_and_the_mean_stays(probability: float) -> None:
    torch.manual_seed(0)
    kept = draw_kept(torch.Size((1000, 1001)), probability)
    error = (probability * (1 - probability) / kept.numel()) ** 0.5
    assert abs(float(kept.double().mean()) - (1 - probability)) < 5 * error
    assert abs(float(kept.double().mean()) * kept_scale(probability) - 1) < 6 * error
    for part in range(4):  # of each 64-bit draw
        assert abs(float(kept.flatten()[part::4].double().mean()) - (1 - probability)) < 10 * error


def test_values_are_dropped_independently_of_each_other() -> None:
    torch.manual_seed(0)
    kept = draw_kept(torch.Size((4000, 1000)), 0.1).double() - 0.9
    by_row = kept.mean(dim=1).var() / (0.9 * 0.1 / 1000)
    assert abs(float(by_row) - 1) < 0.12  # 5 standard errors of a variance of 4,000 rows
    for distance in (1, 2, 3, 4, 1000, 4 * WORDS):
        flat = kept.flatten()
        correlation = (flat[:-distance] * flat[distance:]).mean() / 0.09
        assert abs(float(correlation)) < 5 / 2000


def test_the_numbers_are_those_that_splitmix64_is_known_for() -> None:
    # The first five for the seed 1234567, as its reference implementation gives them.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    numbers = torch.empty(5, dtype=torch.int64)
    split_mix(1234567, out=numbers)
    assert [number % 2**64 for number in numbers.tolist()] == known


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_kept_is_kept_to_the_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, kept = torch.randn(7, 33).to(dtype), draw_kept(torch.Size((7, 33)), 0.4)
    assert torch.equal(drop(x, kept), torch.where(kept.bool(), x, 0))
    # A view that is not contiguous, as gradients are at times.
    assert torch.equal(drop(x.t(), kept.t()), torch.where(kept.t().bool(), x.t(), 0))


def test_the_backward_pass_drops_what_the_forward_pass_dropped() -> None:
    torch.manual_seed(0)
    module, x = BitDropout(0.3), torch.randn(50, 41, requires_grad=True)
    out = module(x)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (out / x).detach(), rtol=1e-5, atol=1e-6)
    assert 0.2 < float((x.grad == 0).double().mean()) < 0.4


def test_the_same_seed_drops_the_same() -> None:
    module, outs = BitDropout(0.5), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(module(torch.ones(100)))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_nothing_is_dropped_in_evaluation_or_with_a_probability_of_zero() -> None:
    x = torch.randn(10)
    assert BitDropout(0.5).eval()(x) is x
    assert BitDropout(0.0)(x) is x


def test_every_dropout_of_a_model_is_replaced_and_no_weight_is_new() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.2), nn.ModuleDict({"inner": nn.Dropout(0.1)}))
    names = list(model.state_dict())
    use_bit_dropout(model)
    assert [m.p for m in model.modules() if isinstance(m, BitDropout)] == [0.2, 0.1]
    assert list(model.state_dict()) == names
