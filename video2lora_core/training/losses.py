"""The losses of training, over logits at label positions (METHOD.md, Training).

Labels stand packed: one line per label token, with the number of the sample it belongs to. Every
loss is a mean over a sample's tokens and then over samples, so that a long target weighs no more
than a short one. Logits are compared in float32 whatever type the model computes in.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from video2lora_core.errors import UsageError


def cross_entropy(
    label_logits: Float[Tensor, "label vocab"],
    label_id: Int[Tensor, " label"],
    label_sample: Int[Tensor, " label"],
    *,
    num_samples: int,
) -> Float[Tensor, ""]:
    """Return the teacher-forced cross-entropy: the mean over a sample's tokens, then over samples.

    Args:
        label_logits: what the model says at each label's position.
        label_id: the token that stands there.
        label_sample: which sample the label belongs to, from 0; each has at least one.
        num_samples: how many samples there are.
    """
    token_loss = F.cross_entropy(label_logits.float(), label_id, reduction="none")
    num_tokens = torch.bincount(label_sample, minlength=num_samples)
    return (token_loss / num_tokens[label_sample]).sum() / num_samples


def distillation(
    student: Sequence[Float[Tensor, "_ vocab"]],
    teacher: Sequence[Float[Tensor, "_ vocab"]],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """Return KL(teacher || student) * temperature^2, the mean over tokens, then over samples.

    The tokens of a sample are aligned by position; where one side has fewer, the rest of the other
    is left out. No gradient goes to the teacher.

    Raises:
        UsageError: the temperature is not positive, the numbers of samples differ, or a sample has
            no token on one side.
    """
    lengths = [min(len(s), len(t)) for s, t in zip(student, teacher, strict=False)]
    if temperature <= 0 or len(student) != len(teacher) or not lengths or min(lengths) == 0:
        raise UsageError(
            f"distillation: {len(student)} and {len(teacher)} samples of at least "
            f"{min(lengths, default=0)} tokens, temperature {temperature} (expected as many on "
            "both sides, a token in each, a positive temperature); correct the batch"
        )
    own = torch.cat([row[:length] for row, length in zip(student, lengths, strict=True)])
    given = torch.cat([row[:length] for row, length in zip(teacher, lengths, strict=True)])
    sample = torch.repeat_interleave(torch.tensor(lengths)).to(own.device)
    token_loss = F.kl_div(
        F.log_softmax(own.float() / temperature, dim=-1),
        F.log_softmax(given.detach().float() / temperature, dim=-1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    weight = 1.0 / torch.tensor(lengths, device=own.device)
    return (token_loss * weight[sample]).sum() / len(lengths) * temperature**2
