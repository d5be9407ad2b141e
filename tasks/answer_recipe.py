"""What decides an answer beside the question: hashed into answer ids and into the run's id."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from configs.answer_schema import AnswerConfig
from configs.schema import InternalizeConfig
from storage.identity import canonical_json, sha256_hex
from tasks.recipe import Recipe, make_recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRecipe:
    """The settings of a run of answers, with the recipe that adapters or frames are made by."""

    recipe: Recipe
    settings: dict[str, Any]
    """What decides every answer of the run."""

    def answer_id(
        self,
        *,
        question_id: str,
        question: str,
        video_id: str,
        span: tuple[int | None, int | None],
        adapters: Sequence[str],
    ) -> str:
        """Return the id of one question's answer; `adapters` are those that may answer it."""
        decided = [self.settings, question_id, question, video_id, span, list(adapters)]
        return sha256_hex(canonical_json(decided).encode())


def internalize_config(config: AnswerConfig, corpus: str) -> InternalizeConfig:
    """Return the run config that makes adapters as the questions need them."""
    return InternalizeConfig(
        corpus=corpus,
        lake=config.lake,
        model=config.model,
        random_weights=config.allow_random,
        decoder=config.decoder,
        decode=config.decode,
        corpus_name=f"missing for {question_set(config)}",
    )


def question_set(config: AnswerConfig) -> str:
    """Return what the catalog calls the set."""
    return config.question_set or config.questions


def answer_recipe(config: AnswerConfig) -> AnswerRecipe:
    """Return what decides the answers of a run; nothing is loaded."""
    recipe = make_recipe(internalize_config(config, config.questions))
    identity = recipe.identity
    settings: dict[str, Any] = {
        "mode": config.mode,
        "max_new_tokens": config.max_new_tokens,
        "model_weights_sha256": identity.weights_sha256,
        "model_config_sha256": identity.config_sha256,
        "tokenizer_sha256": identity.tokenizer_sha256,
        "processor_sha256": identity.processor_sha256,
        "compute_dtype": recipe.model.vlm.dtype,
    }
    if config.mode == "adapter":
        settings |= {"strategy": config.strategy, "checkpoint_sha256": identity.checkpoint_sha256}
    elif config.mode != "blind":
        names = ("segment_us", "min_tail_us", "num_frames", "decoder", "decoder_version", "resize")
        settings |= {name: recipe.content[name] for name in names}
    return AnswerRecipe(recipe=recipe, settings=settings)
