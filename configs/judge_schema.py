"""The optional judge: a language model behind any OpenAI-compatible endpoint. Off by default."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class JudgeConfig(BaseModel):
    """Which model judges, how it is reached, and where its verdicts are kept."""

    # The URL may be pasted with a secret in it: an error must not repeat it.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    base_url: Annotated[str, Field(min_length=1)]
    """What stands before `/chat/completions`, such as https://judge.example/v1."""
    model: Annotated[str, Field(min_length=1)]
    """The model's name, as the endpoint knows it."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; never the key itself. None sends no
    key, as servers of your own may want."""
    allow_http: bool = False
    """Allow http:// to another machine, where key and texts travel in the open."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait for one answer, from the request to its last byte."""
    retries: Annotated[int, Field(ge=0)] = 4
    """How often a question is asked again: after 408, 429, 5xx, a broken connection, a timeout, or
    an answer that is no score."""
    longest_wait_s: Annotated[float, Field(ge=0)] = 60.0
    """Longest pause before a retry, whatever the server asks for (Retry-After)."""
    max_failures: Annotated[int, Field(gt=0)] = 10
    """After so many questions in a row without a score the rest is not asked."""
    concurrency: Annotated[int, Field(gt=0)] = 4
    """Requests under way at once."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: the same question gets the same score as far as the model allows."""
    max_tokens: Annotated[int, Field(gt=0)] = 256
    """Longest answer; the score and one sentence need about 60."""
    cache: Path = Path("judge-cache")
    """Directory of scores; a question is asked once per model, prompt, answer and references."""
