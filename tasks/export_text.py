"""What stands beside exported adapters for people and servers: README, serving list, shell line."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

_MOST_LISTED = 64  # beyond that a command line gets too long, and vLLM finds adapters by name
_MOST_AT_ONCE = 8

_README = """# Adapters of videos, for {purpose}

Base model: `{base_model}`. Each directory under `adapters/` is a PEFT LoRA: rank `r`, `lora_alpha`
= scaling x r. The bias of the checkpoint {bias}.

| name | rank | what it knows |
|---|---|---|
{table}

Check it before use; a wrong key or factor is served without a word otherwise:

    video2lora verify-export THIS_DIRECTORY --model MODEL

{how}
Ask in plain text, without any image, in the prompt that the adapters were trained for:
`<|im_start|>User: QUESTION<end_of_utterance>` newline `Assistant:`
"""

_BIAS = {
    "included": "is among the ranks of every adapter: use exactly one of them at a time",
    "apart": "is a directory of its own, `{bias_name}`: use it together with adapters, once",
    "merged": "is in the weights of the copy under `base/`: use the adapters with that base only",
}

_PEFT = """With PEFT:

    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained({base})
    model = PeftModel.from_pretrained(base, "adapters/{name}")
"""

_APART = """    model.load_adapter("adapters/{bias_name}", "bias")
    model.base_model.set_adapter(["default", "bias"])  # their updates add up
"""

_VLLM = """With vLLM: `sh serve.sh` in this directory, then name an adapter as the `model` of a
request. In process, `serving.json` lists what `LoRARequest` needs:

    import json
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    plan = json.load(open("serving.json"))
    llm = LLM(plan["model"], enable_lora=True, max_lora_rank=plan["max_lora_rank"])
    requests = [
        LoRARequest(a["lora_name"], a["lora_int_id"], a["lora_path"]) for a in plan["adapters"]
    ]

The names are made of the content: new adapters have new names, so no server answers from a stale
cache.
"""


def readme(description: Mapping[str, Any]) -> str:
    """Return the README of an export."""
    entries = description["adapters"]
    names = [entry["name"] for entry in entries if not entry["is_bias"]]
    bias_name = next((entry["name"] for entry in entries if entry["is_bias"]), "")
    rows = [f"| `{e['name']}` | {e['exported_rank']} | {_plain(e['label'])} |" for e in entries]
    is_merged = description["bias"] == "merged"
    base = json.dumps("base" if is_merged else description["base_model"])
    how = _PEFT.format(base=base, name=names[0] if names else "NAME")
    if description["bias"] == "apart":
        how += _APART.format(bias_name=bias_name)
    if description["for"] == "vllm":
        how = _VLLM
    if description["bias_lost_in_rounding"]:
        lost = description["bias_lost_in_rounding"]
        how += f"\nRounding to the base's number format lost {lost:.1%} of the bias; the original"
        how += " weights are untouched.\n"
    return _README.format(
        purpose=description["for"],
        base_model=description["base_model"],
        bias=_BIAS[description["bias"]].format(bias_name=bias_name),
        table="\n".join(rows),
        how=how,
    )


def serving(description: Mapping[str, Any]) -> dict[str, str]:
    """Return what a vLLM server is started with: file name -> text."""
    entries = description["adapters"]
    base = description["base_model"]
    plan = {
        "model": "base" if description["bias"] == "merged" else base,
        "served_model_name": base,
        "max_lora_rank": max((entry["exported_rank"] for entry in entries), default=1),
        "max_loras": max(1, min(len(entries), _MOST_AT_ONCE)),
        "lora_target_modules": sorted({name for entry in entries for name in entry["modules"]}),
        "adapters": [
            {
                "lora_name": entry["name"],
                # Made of the content like the name: an id that comes again means the same adapter.
                "lora_int_id": int(entry["name"].rpartition("-")[2][:15], 16) + 1,
                "lora_path": f"adapters/{entry['name']}",
                "rank": entry["exported_rank"],
                "base_model_name": base,
            }
            for entry in entries
        ],
    }
    return {"serving.json": json.dumps(plan, indent=2) + "\n", "serve.sh": _shell(plan)}


def _shell(plan: Mapping[str, Any]) -> str:
    words = ["vllm", "serve", plan["model"], "--served-model-name", plan["served_model_name"]]
    words += ["--enable-lora", "--max-lora-rank", str(plan["max_lora_rank"])]
    words += ["--max-loras", str(plan["max_loras"])]
    words += ["--lora-target-modules", *plan["lora_target_modules"]]
    settings = ""
    if len(plan["adapters"]) <= _MOST_LISTED:
        words.append("--lora-modules")
        for entry in plan["adapters"]:
            listed = {"name": entry["lora_name"], "path": entry["lora_path"]}
            words.append(json.dumps(listed | {"base_model_name": entry["base_model_name"]}))
    else:
        settings = (
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 VLLM_PLUGINS=lora_filesystem_resolver "
            "VLLM_LORA_RESOLVER_CACHE_DIR=adapters "
        )
    return f'#!/bin/sh\ncd "$(dirname "$0")" || exit 1\n{settings}exec {shlex.join(words)}\n'


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() and char not in "|`<>" else " " for char in text)
