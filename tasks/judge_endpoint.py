"""One question to an OpenAI-compatible endpoint, asked again until it answers or patience ends.

The key is read from the environment when an endpoint is opened, travels in one header, and is in no
message, log or file; nor is any text that the server sends, which may repeat it. Redirects are not
followed: they would take the key elsewhere.
"""

import json
import logging
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any, Final

import httpx

from configs.judge_schema import JudgeConfig
from storage.errors import CredentialsError
from storage.manifest import refuse_credentials
from tasks.judge_prompt import NoScoreError, Score, messages, parse_score
from video2lora_core.errors import UsageError

_log = logging.getLogger(__name__)

_REFUSED: Final = frozenset({401, 403, 404, 405})
"""No question will fare better: the key, the URL or the model is wrong."""
_BUSY: Final = frozenset({408, 429})
_LARGEST_BYTES: Final = 1 << 20
_FIRST_WAIT_S: Final = 1.0


class UnjudgedError(Exception):
    """A question got no score; the message is a short reason, the same for the same cause."""


class _AgainError(Exception):
    """One try failed, and another may do better."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Endpoint:
    """A judge's HTTP side; safe to use from several threads."""

    def __init__(self, config: JudgeConfig, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Check the URL and read the key.

        Raises:
            UsageError: the URL or the key cannot be used.
        """
        self._config = config
        self._sleep = sleep
        url = _checked_url(config)
        key = _key_of(config)
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=config.timeout_s,
            limits=httpx.Limits(max_connections=config.concurrency),
            # A proxy of the environment has no business between two programs of one machine.
            trust_env=not _is_loopback(url.host),
        )
        self._url = f"{config.base_url.rstrip('/')}/chat/completions"
        self._shown = f"judge {url.host}"

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def score(self, question: str, answer: str, references: Sequence[str]) -> Score:
        """Ask for a score until there is one.

        Raises:
            UnjudgedError: there is none after all retries.
            UsageError: the endpoint refuses whatever it is asked.
        """
        body = {
            "model": self._config.model,
            "messages": messages(question, answer, references),
            "temperature": self._config.temperature,
            "max_tokens": self._config.max_tokens,
        }
        for attempt in range(self._config.retries + 1):
            try:
                return parse_score(self._content(body))
            except NoScoreError:
                again = _AgainError("the answer is no score")
            except _AgainError as error:
                again = error
            _log.debug("%s: try %d failed: %s", self._shown, attempt + 1, again)
            if attempt < self._config.retries:
                self._pause(attempt, again.wait_s)
        raise UnjudgedError(str(again))

    def _pause(self, attempt: int, asked_s: float | None) -> None:
        # Several threads that failed together shall not come back together.
        own_s = _FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.0)
        self._sleep(min(own_s if asked_s is None else asked_s, self._config.longest_wait_s))

    def _content(self, body: dict[str, Any]) -> str:
        try:
            status, headers, answer = self._post(body)
        except httpx.TimeoutException:
            raise _AgainError("timeout") from None
        except httpx.HTTPError:
            raise _AgainError("no connection") from None
        if status in _REFUSED:
            raise UsageError(
                f"{self._shown}: HTTP {status} (expected 200); check base_url, model and the key in"
                f" ${self._config.api_key_env or 'api_key_env, which is not set'}"
            )
        if status in _BUSY or status >= 500:
            raise _AgainError(f"HTTP {status}", _retry_after_s(headers.get("retry-after")))
        if status != 200:
            raise UnjudgedError(f"HTTP {status}")
        return _text_of(answer)

    def _post(self, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        deadline = time.monotonic() + self._config.timeout_s
        received = bytearray()
        with self._client.stream("POST", self._url, json=body) as response:
            for part in response.iter_bytes():
                received += part
                # httpx limits each wait, not their sum: a server may answer a byte at a time.
                if time.monotonic() > deadline:
                    raise _AgainError("timeout")
                if len(received) > _LARGEST_BYTES:
                    raise _AgainError("the answer is too long")
            return response.status_code, response.headers, bytes(received)


def _text_of(answer: bytes) -> str:
    """The text of a chat completion."""
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise _AgainError("the answer is no chat completion") from None
    if not isinstance(content, str):
        raise _AgainError("the answer is no chat completion")
    return content


def _retry_after_s(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip()):
        return float(value)
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())


def _checked_url(config: JudgeConfig) -> httpx.URL:
    try:
        refuse_credentials(config.base_url)
        url = httpx.URL(config.base_url)
    except (CredentialsError, httpx.InvalidURL):
        raise UsageError(
            "judge: base_url is no plain URL (it does not parse, or carries credentials); write"
            " https://host/v1, and put the key into an environment variable"
        ) from None
    if url.scheme not in {"http", "https"} or not url.host or url.query:
        raise UsageError(
            f"judge: base_url is {url.scheme or 'no scheme'}://{url.host} (expected https://host/v1"
            " without a query); correct it"
        )
    if url.scheme == "http" and not (config.allow_http or _is_loopback(url.host)):
        raise UsageError(
            f"judge: base_url is http:// to {url.host} (expected https:// to another machine); key"
            " and texts would travel in the open: use https, or set allow_http"
        )
    return url


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _key_of(config: JudgeConfig) -> str | None:
    name = config.api_key_env
    if name is None:
        return None
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UsageError(
            "judge: api_key_env is no variable's name (not shown: it may be the key); give the name"
            " of the environment variable that holds the key"
        )
    key = os.environ.get(name, "").strip()
    if not key:
        raise UsageError(f"judge: ${name} is not set (expected the key); export it, then run again")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(
            f"judge: ${name} holds characters that no key has (not shown); export the bare key"
        )
    return key
