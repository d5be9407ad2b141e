"""The threads of one shard: one lock between them, and one end for all.

All state that threads share is read and changed under the crew's lock, and whoever changes it wakes
the rest. A few events per second need no finer locks, and one lock cannot be taken in two orders.

Every thread has a role. Because waiting is done here, the crew can say that a role is `stuck`: all
its threads wait, and not one for something that is already true. Nothing more comes from them then
until somebody else moves.

The end: the first error of a thread stops all others and is raised where the crew was opened. Who
waits is told by `StoppedError`; who has work to bring home waits `through_stop`. The threads are
daemons and are waited for only so long: a decoder that hangs must not keep a process alive.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

logger = logging.getLogger(__name__)

# A worker that is told to end has 30 s by default, under Prefect and under Kubernetes alike.
GRACE_S: Final = 20.0
_ABORT_AFTER_S: Final = 2.0

Predicate = Callable[[], bool]


class StoppedError(Exception):
    """What a thread is told that waits while the crew ends."""


class Crew:
    """Starts threads inside a `with` block and ends them with it."""

    def __init__(self, *, grace_s: float = GRACE_S) -> None:
        """Start nothing yet; at the end, wait at most `grace_s` for the threads."""
        self._changed = threading.Condition()
        self._grace_s = grace_s
        self._threads: list[_Thread] = []
        self._waiting: dict[int, Predicate] = {}
        self._error: BaseException | None = None
        self.is_stopped = False

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, _: type[BaseException] | None, raised: BaseException | None, __: TracebackType | None
    ) -> None:
        """End, and raise the first error of a thread."""
        self.end()
        if self._error is not None and (raised is None or isinstance(raised, StoppedError)):
            raise self._error from None

    def start(
        self, role: str, body: Callable[[], None], *, abort: Callable[[], None] | None = None
    ) -> None:
        """Run `body` in a thread; `abort` is called where it does not end by itself."""
        thread = _Thread(role, lambda: self._run(thread, body), abort)
        with self.changing():
            self._threads.append(thread)
        thread.start()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock, and let all who wait look again afterwards."""
        with self._changed:
            yield
            self._changed.notify_all()

    def wait_for(self, predicate: Predicate, *, through_stop: bool = False) -> None:
        """Wait until `predicate`, which may only look at state under the lock, is true.

        Raises:
            StoppedError: the crew ends; never with `through_stop`.
        """

        def is_over() -> bool:
            return (self.is_stopped and not through_stop) or predicate()

        with self._changed:
            if not is_over():
                me = threading.get_ident()
                self._waiting[me] = is_over
                self._changed.notify_all()  # that this thread waits may be what another waits for
                try:
                    self._changed.wait_for(is_over)
                finally:
                    del self._waiting[me]
            if self.is_stopped and not through_stop:
                raise StoppedError

    def is_over(self, role: str) -> bool:
        """Say whether every thread of a role has ended."""
        return all(thread.is_done for thread in self._threads if thread.role == role)

    def is_stuck(self, role: str) -> bool:
        """Say whether no thread of a role can go on before something changes."""
        return all(
            thread.is_done or not self._waiting.get(thread.ident or 0, _is_true)()
            for thread in self._threads
            if thread.role == role
        )

    def stop(self, error: BaseException | None = None) -> None:
        """Tell every thread to end; the first error given is the one that counts."""
        with self.changing():
            self.is_stopped = True
            self._error = self._error or error

    def end(self) -> None:
        """Stop, and wait for the threads; at the latest the end of the `with` block does it."""
        self.stop()
        deadline = time.monotonic() + self._grace_s
        for thread in self._threads:
            if thread.abort is not None:
                thread.join(min(_ABORT_AFTER_S, max(0.0, deadline - time.monotonic())))
                if thread.is_alive():
                    thread.abort()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.warning("%s: did not end within %.0f s", thread.role, self._grace_s)
        self._threads = [thread for thread in self._threads if thread.is_alive()]

    def _run(self, thread: "_Thread", body: Callable[[], None]) -> None:
        try:
            body()
        except StoppedError:
            pass
        except BaseException as error:  # raised again where the crew was opened
            self.stop(error)
        finally:
            with self.changing():
                thread.is_done = True


class _Thread(threading.Thread):
    def __init__(
        self, role: str, target: Callable[[], None], abort: Callable[[], None] | None
    ) -> None:
        super().__init__(target=target, name=f"video2lora-{role}", daemon=True)
        self.role = role
        self.abort = abort
        self.is_done = False


def _is_true() -> bool:
    """Stand for the predicate of a thread that does not wait."""
    return True
