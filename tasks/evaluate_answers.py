"""The answers that the modes are compared by: those of the catalog, and a control beside them."""

from collections.abc import Sequence

from storage.lake import Lake
from tasks.answer_results import read_answers
from tasks.evaluate_ask import Asking
from tasks.evaluate_comparison import Said
from tasks.evaluate_corpus import EvaluatedVideo, Watched
from tasks.pick_many import pick_many
from tasks.recipe import ModelIdentity
from video2lora_core.adapter import adapter_from_bytes


def answers_of(lake: Lake, run_id: str) -> list[Said]:
    """Return the answers of a run of questions; a question that was rejected has none."""
    return [
        Said(
            question_id=row["question_id"],
            video_id=row["video_id"],
            question=row["question"],
            references=tuple(row["references"]),
            question_type=row["question_type"],
            text=row["answer"],
            num_prompt_tokens=row["num_prompt_tokens"],
            num_visual_tokens=row["num_visual_tokens"],
        )
        for row in read_answers(lake, run_id)
        if row["answer"] is not None
    ]


def control(
    lake: Lake, videos: Sequence[EvaluatedVideo], asking: Asking, model: ModelIdentity
) -> list[Said]:
    """Ask every video's questions of the next video's adapters: what the questions give away."""
    picked = pick_many(lake, [video.video_id for video in videos], model=model)
    with_adapters = [video for video in videos if picked.rows.get(video.video_id)]
    if len(with_adapters) < 2:
        return []
    said = []
    for video, other in zip(with_adapters, [*with_adapters[1:], with_adapters[0]], strict=True):
        files = [row["adapter_sha256"] for row in picked.rows[other.video_id]]
        adapters = [adapter_from_bytes(lake.adapters.get(name)) for name in files]
        swapped = Watched(video=video, frames=(), adapters=tuple(adapters))
        texts = [question.question for question in video.questions]
        given = asking.routed(swapped, range(len(adapters)), texts)
        said += [
            Said(
                question_id=question.question_id,
                video_id=video.video_id,
                question=question.question,
                references=question.references,
                question_type=question.question_type,
                text=one.text,
                num_prompt_tokens=one.num_prompt_tokens,
                num_visual_tokens=one.num_visual_tokens,
            )
            for question, one in zip(video.questions, given, strict=True)
        ]
    return said
