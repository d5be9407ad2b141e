"""The demo: real mp4 files through the whole pipeline, then questions, with figures.

Everything it makes lies under one folder: the videos, the lake, and a Prefect home of its own, so
that a user's Prefect is left alone. Run again, it finds the lake as it is and has nothing to do.
"""

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from configs.load import load_model_config
from configs.schema import InternalizeConfig
from flows import prefect_settings
from flows.api import OpenLake, open_lake
from flows.console import make_console, make_table, show_run, showing_progress
from flows.run import run_internalize
from tasks.compare_answers import CONDITIONS, ComparedQuestion, compare_answers, watch_video
from tasks.models import load_model
from tasks.render_corpus import RenderedVideo, render_corpus
from video2lora_core.errors import UsageError

_CATALOG_SQL = """\
select v.video_id[:12] as video_id, parse_filename(v.uri) as file, c.duration_us / 1e6 as seconds,
       c.num_segments, c.num_adapters, c.num_rejects, p.rank as composed_rank
from videos v join coverage c using (video_id, recipe_id)
left join compositions_latest p using (video_id, recipe_id) order by file"""
_CAPTION = "Describe the video."
_FALLBACK = "The embedded model knows its own world of shapes only: for your videos give --model."


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSettings:
    """What the command line asks of the demo."""

    out: Path
    video: Path | None
    question: str | None
    engine: str
    model: str
    num_videos: int
    seed: int
    max_new_tokens: int = 24


class Steps:
    """Announces each step of the demo and keeps its seconds."""

    def __init__(self, console: Console) -> None:
        """Start with no step done."""
        self._console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run one step."""
        self._console.print(f"[bold]== {name}[/bold]")
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
        self._console.print(f"   {self.seconds[name]:.1f} s\n")


def run_demo(settings: DemoSettings) -> None:
    """Render (or take) videos, internalize them, show the catalog, ask questions."""
    console = make_console()
    steps = Steps(console)
    rendered: Sequence[RenderedVideo] = ()
    with steps.step(f"load the model {settings.model}"):
        load_model(load_model_config(settings.model))
    if settings.video is None:
        with steps.step(f"render {settings.num_videos} unseen videos"):
            rendered = render_corpus(
                settings.out / "videos",
                seed=settings.seed,
                num_scenes=_lengths(settings.num_videos),
            )
    elif not settings.video.is_file():
        raise UsageError(f"{settings.video}: no such file; give --video a video of your own")
    if settings.engine == "prefect":
        with steps.step("start Prefect, with a server of its own"):
            _start_prefect(settings.out / "prefect")
    lake = _internalize(settings, steps, console)
    with steps.step("the catalog, by SQL"):
        console.print(_CATALOG_SQL, style="dim", markup=False)
        _print_rows(console, lake, _CATALOG_SQL)
    if settings.video is None:
        with steps.step("ask from the adapter, in context, and blind"):
            compared = _ask_all(lake, rendered, max_new_tokens=settings.max_new_tokens)
            _print_comparison(console, compared)
    else:
        with steps.step("ask about your video, from its adapters alone"):
            _ask_own(console, lake, settings)
    _print_end(console, settings, steps)


def _lengths(num_videos: int) -> list[int]:
    """Scenes per video: mostly one, every fourth video two, every sixth four."""
    return [4 if i % 6 == 5 else 2 if i % 4 == 3 else 1 for i in range(num_videos)]


def _start_prefect(home: Path) -> None:
    prefect_settings.apply(home=home)
    from flows.prefect_engine import start_flow

    try:
        start_flow()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"Prefect: its server did not start ({reason}); try again when the machine is less "
            "busy, or run `video2lora demo --engine local`"
        ) from error


def _internalize(settings: DemoSettings, steps: Steps, console: Console) -> OpenLake:
    uri = str(settings.out / "lake")
    config = InternalizeConfig(
        corpus=str(settings.video or settings.out / "videos"),
        lake=uri,
        model=settings.model,
        corpus_name="demo",
        engine="prefect" if settings.engine == "prefect" else "local",
    )
    with steps.step(f"internalize, {config.engine} engine"):
        with showing_progress():
            summary = run_internalize(config)
        show_run(summary, lake=uri, as_json=False)
    return open_lake(uri, model=settings.model)


def _ask_all(
    lake: OpenLake, videos: Sequence[RenderedVideo], *, max_new_tokens: int
) -> list[ComparedQuestion]:
    compared: list[ComparedQuestion] = []
    for number, video in enumerate(videos):
        adapter = lake.adapter(str(video.path))
        watched = watch_video(video.path, lake.config)
        ask = functools.partial(
            compare_answers,
            lake.model,
            adapter=adapter,
            video=watched,
            max_new_tokens=max_new_tokens,
        )
        if number == 0:  # the first forward of a process is slow, and nobody's fault
            ask(video.questions[:1])
        compared += ask(video.questions)
    return compared


def _ask_own(console: Console, lake: OpenLake, settings: DemoSettings) -> None:
    question = settings.question or _CAPTION
    adapter = lake.adapter(str(settings.video))
    found = lake.ask(question, adapter=adapter, max_new_tokens=settings.max_new_tokens)
    console.print(f"{question}\n-> {found.text}", markup=False)
    console.print(
        f"prompt {found.num_prompt_tokens} tokens, {found.num_visual_tokens} of them visual, "
        f"first token after {found.time_to_first_token_s * 1000:.1f} ms"
    )
    if settings.model == "tiny":
        console.print(_FALLBACK)


def _print_comparison(console: Console, compared: Sequence[ComparedQuestion]) -> None:
    kinds = sorted({entry.question.kind for entry in compared})
    groups = [(kind, [e for e in compared if e.question.kind == kind]) for kind in kinds]
    rows: list[list[Any]] = [
        [kind, len(entries), *(_percent_right(entries, c) for c in CONDITIONS)]
        for kind, entries in [*groups, ("all", list(compared))]
    ]
    columns = ["question type", "questions", *CONDITIONS]
    console.print(make_table(columns, rows, title="right answers, exact match %"))
    console.print(
        make_table(
            ["per question", *CONDITIONS],
            [
                ["prompt tokens", *(_mean(compared, c, "num_prompt_tokens") for c in CONDITIONS)],
                ["visual tokens", *(_mean(compared, c, "num_visual_tokens") for c in CONDITIONS)],
                ["first token, ms", *(_median_first_ms(compared, c) for c in CONDITIONS)],
            ],
            title="what a question costs (means; the time is a median)",
        )
    )
    examples = [entries[0] for kind, entries in groups if kind != "caption"]  # a caption is long
    console.print(
        make_table(
            ["question", "truth", *CONDITIONS],
            [
                [e.question.text, e.question.answer, *(e.answers[c].text for c in CONDITIONS)]
                for e in examples
            ],
            title="the first question of each type",
        )
    )


def _percent_right(entries: Sequence[ComparedQuestion], condition: str) -> float:
    return round(100 * sum(e.is_right(condition) for e in entries) / len(entries), 1)


def _mean(entries: Sequence[ComparedQuestion], condition: str, name: str) -> float:
    values: list[int] = [getattr(entry.answers[condition], name) for entry in entries]
    return round(sum(values) / len(values), 1)


def _median_first_ms(entries: Sequence[ComparedQuestion], condition: str) -> float:
    values = sorted(entry.answers[condition].time_to_first_token_s for entry in entries)
    return round(1000 * values[len(values) // 2], 1)


def _print_rows(console: Console, lake: OpenLake, sql: str) -> None:
    found = lake.sql(sql)
    console.print(make_table(found.column_names, [list(r.values()) for r in found.to_pylist()]))


def _print_end(console: Console, settings: DemoSettings, steps: Steps) -> None:
    rows = [[name, round(seconds, 1)] for name, seconds in steps.seconds.items()]
    console.print(make_table(["step", "seconds"], rows))
    lake = settings.out / "lake"
    console.print(f"videos   {settings.video or settings.out / 'videos'}")
    console.print(f"lake     {lake} (adapters/, catalog/, catalog.duckdb)")
    console.print(
        f"try      video2lora ask NAME.mp4 'What colour is the ball?' --lake {lake} -v\n"
        f"         video2lora sql 'select * from adapters_latest limit 5' --lake {lake}"
    )
