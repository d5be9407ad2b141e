"""The losses against plain loops and torch's own functions, and their gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from video2lora_core.errors import UsageError
from video2lora_core.training.losses import cross_entropy, distillation

VOCAB = 7
lengths = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def drawn(seed: int, sizes: list[int], *, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(size, VOCAB, generator=generator, dtype=dtype) for size in sizes]


def packed(sizes: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed + 1)
    ids = torch.randint(VOCAB, (sum(sizes),), generator=generator)
    return ids, torch.repeat_interleave(torch.tensor(sizes))


@given(lengths, st.integers(0, 99))
def test_cross_entropy_is_the_mean_over_samples_of_the_mean_over_their_tokens(
    sizes: list[int], seed: int
) -> None:
    rows = drawn(seed, sizes)
    ids, sample = packed(sizes, seed)
    found = cross_entropy(torch.cat(rows), ids, sample, num_samples=len(sizes))
    expected = [
        F.cross_entropy(row.float(), ids[sample == number]) for number, row in enumerate(rows)
    ]
    assert found.item() == pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)


@given(lengths, lengths, st.integers(0, 99), st.floats(0.5, 4.0))
def test_distillation_is_a_plain_loop_over_aligned_tokens(
    own: list[int], given_: list[int], seed: int, temperature: float
) -> None:
    count = min(len(own), len(given_))
    student, teacher = drawn(seed, own[:count]), drawn(seed + 1000, given_[:count])
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        shared = min(len(s), len(t))
        sample = 0.0
        for position in range(shared):
            p = [math.exp(x / temperature) for x in t[position].tolist()]
            q = [math.exp(x / temperature) for x in s[position].tolist()]
            for a, b in zip(p, q, strict=True):
                sample += a / sum(p) * math.log((a / sum(p)) / (b / sum(q)))
        total += sample / shared
    found = distillation(student, teacher, temperature=temperature)
    assert found.item() == pytest.approx(total / count * temperature**2, rel=1e-3, abs=1e-5)


def test_a_student_that_says_what_the_teacher_says_loses_nothing() -> None:
    rows = drawn(3, [2, 4])
    assert distillation(rows, rows).item() == pytest.approx(0.0, abs=1e-6)


def test_the_losses_gradients_are_those_of_finite_differences() -> None:
    sizes = [2, 3]
    ids, sample = packed(sizes, 5)
    teacher = drawn(8, sizes)

    def losses(flat: torch.Tensor) -> torch.Tensor:
        ce = cross_entropy(flat, ids, sample, num_samples=2)
        return ce + distillation(list(flat.split(sizes)), teacher, temperature=2.0)

    # Logits are compared in float32, so differences of float64 inputs see its rounding.
    flat = torch.cat(drawn(9, sizes)).requires_grad_()
    losses(flat).backward()
    assert flat.grad is not None
    step = 1e-2
    for row, column in ((0, 0), (1, 3), (4, 6)):
        moved = [flat.detach().clone() for _ in range(2)]
        moved[0][row, column] += step
        moved[1][row, column] -= step
        slope = (losses(moved[0]) - losses(moved[1])) / (2 * step)
        assert flat.grad[row, column].item() == pytest.approx(slope.item(), abs=2e-4)


def test_no_gradient_goes_to_the_teacher() -> None:
    student = [row.requires_grad_() for row in drawn(1, [2])]
    teacher = [row.requires_grad_() for row in drawn(2, [2])]
    distillation(student, teacher).backward()
    assert student[0].grad is not None
    assert teacher[0].grad is None


@pytest.mark.parametrize(
    ("student", "teacher", "temperature"),
    [([2], [2, 2], 1.0), ([2], [2], 0.0), ([0], [2], 1.0), ([], [], 1.0)],
)
def test_what_cannot_be_compared_is_refused(
    student: list[int], teacher: list[int], temperature: float
) -> None:
    with pytest.raises(UsageError, match="distillation"):
        distillation(drawn(1, student), drawn(2, teacher), temperature=temperature)
