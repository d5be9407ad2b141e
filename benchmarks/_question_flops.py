"""What a question costs the whole models: counted on the full shapes, which hold nothing.

Matrix products and attention, counted by torch over the real modules; attention counts all pairs
of positions, also those that a causal kernel leaves out. Counts are the same on every machine.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._question_room import random_adapter
from benchmarks._sizes import fake_model
from video2lora_core.answer_decoding import new_cache, vocabulary
from video2lora_core.encoder import look
from video2lora_core.inject import adapted
from video2lora_core.vlm import Vlm

MODELS = ("smolvlm2-500m", "smolvlm2-2.2b")
QUERY_TOKENS = 30
RANK = 32  # one segment and the bias
# The prompt's text around the visual tokens (docs/method.md): 982 tokens with the 500M's 12 frames.
TEXT_TOKENS_PER_FRAME, OTHER_TOKENS = 14, 46


def count_whole_model(frames: Sequence[int]) -> list[dict[str, Any]]:
    """Count a prompt and a further token of every way, for both models."""
    return [row for name in MODELS for row in _count(name, frames)]


def _count(name: str, frames: Sequence[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with fake_model(name, dtype=torch.bfloat16) as model, torch.no_grad():
        vlm = model.vlm
        with adapted(vlm.model, random_adapter(vlm, rank=RANK, seed=0)):
            prompt = flops_of(lambda: _read(vlm, QUERY_TOKENS, num_cached=0))
            step = flops_of(lambda: _read(vlm, 1, num_cached=QUERY_TOKENS))
        rows.append(_row(name, "adapter", QUERY_TOKENS, prompt, step, cached=QUERY_TOKENS, vlm=vlm))
        for num_frames in frames:
            seen = num_frames * (vlm.image_tokens_per_frame + TEXT_TOKENS_PER_FRAME) + OTHER_TOKENS
            vision = num_frames * flops_of(lambda: _look(vlm))
            whole = vision + flops_of(partial(_read, vlm, seen, num_cached=0))
            asked = flops_of(partial(_read, vlm, QUERY_TOKENS, num_cached=seen))
            step = flops_of(partial(_read, vlm, 1, num_cached=seen))
            for way, prompt in (("in context", whole), ("KV cache", asked)):
                title = f"{way}, {num_frames} frames"
                rows.append(_row(name, title, seen, prompt, step, cached=seen, vlm=vlm))
    return [row | _over_adapter(row, rows[0]) for row in rows]


def _row(
    name: str, way: str, num_tokens: int, prompt: int, step: int, *, cached: int, vlm: Vlm
) -> dict[str, Any]:
    text = vlm.model.config.text_config
    per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 2
    return {
        "model": name,
        "way": way,
        "num_tokens": num_tokens,
        "is_beyond_positions": num_tokens > vlm.max_tokens,
        "prompt_flops": prompt,
        "token_flops": step,
        "cache_bytes": cached * per_token,
    }


def _over_adapter(row: dict[str, Any], adapter: dict[str, Any]) -> dict[str, float]:
    return {
        "prompt_over_adapter": row["prompt_flops"] / adapter["prompt_flops"],
        "token_over_adapter": row["token_flops"] / adapter["token_flops"],
    }


def flops_of(run: Callable[[], object]) -> int:
    """Count the operations of matrix products and attention."""
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # torch leaves it out
    with FlopCounterMode(display=False, custom_mapping={attend: _attention_flops}) as counter:
        run()
    return int(counter.get_total_flops())


def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object
) -> int:
    batch, heads, num_queries, width = query
    return 2 * batch * heads * num_queries * key[2] * (width + value[3])


def _look(vlm: Vlm) -> object:
    size_px = vlm.pixel_spec.size_px
    return look(vlm, torch.empty(1, 3, size_px, size_px, dtype=vlm.dtype))


def _read(vlm: Vlm, num_tokens: int, *, num_cached: int) -> object:
    text = vlm.model.config.text_config
    shape = (1, text.num_key_value_heads, num_cached, text.head_dim)
    layers = [2 * (torch.empty(shape, dtype=vlm.dtype),)] * text.num_hidden_layers
    hidden = vlm.model.model.text_model(
        inputs_embeds=torch.empty(1, num_tokens, vlm.d_model, dtype=vlm.dtype),
        past_key_values=new_cache(layers, num_rows=1),
        use_cache=True,
    ).last_hidden_state
    return vocabulary(vlm, hidden[:, -1])


def flops_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Lay the counts out."""
    made = Table(title="Counted on the whole models, one question, bfloat16")
    for heading in ("model", "way", "tokens", "prompt, GFLOP", "over adapter", "a token, GFLOP"):
        made.add_column(heading)
    made.add_column("over adapter")
    made.add_column("KV cache, MB")
    for row in rows:
        made.add_row(
            row["model"],
            row["way"] + (" (beyond its positions)" if row["is_beyond_positions"] else ""),
            str(row["num_tokens"]),
            f"{row['prompt_flops'] / 1e9:.1f}",
            f"{row['prompt_over_adapter']:.2f}",
            f"{row['token_flops'] / 1e9:.3f}",
            f"{row['token_over_adapter']:.2f}",
            f"{row['cache_bytes'] / 1e6:.1f}",
        )
    return made
