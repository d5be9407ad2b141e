"""Prometheus metrics of this process, on the loopback interface unless told otherwise.

Fed by `tasks.measures`; nothing is measured twice. Its counters begin at zero with the process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.measures import Counter, Level, measuring
from video2lora_core.errors import UsageError

if TYPE_CHECKING:  # an extra: imported where metrics are asked for
    from prometheus_client import CollectorRegistry

LOOPBACK = "127.0.0.1"
_HELP = {
    "videos": "Videos gone through.",
    "segments": "Segments that became adapters.",
    "rejects": "Inputs not processed, by reason.",
    "units": "Units committed to the catalog.",
    "adapter_bytes": "Bytes of adapter files put into the lake.",
    "seconds": "Busy seconds by stage, threads added up.",
}
_LABELS = {"rejects": "reason", "seconds": "stage"}


class PrometheusSink:
    """Keeps the measures as Prometheus' own types."""

    def __init__(self, collected: "CollectorRegistry") -> None:
        """Register every metric, so that those at zero are shown too."""
        import prometheus_client as prometheus

        self._counters = {
            name: prometheus.Counter(
                f"video2lora_{name}",
                said,
                [_LABELS[name]] if name in _LABELS else [],
                registry=collected,
            )
            for name, said in _HELP.items()
        }
        self._queue = prometheus.Gauge(
            "video2lora_queue_segments",
            "Segments that wait, by queue: frames for the device, adapters for the store.",
            ["queue"],
            registry=collected,
        )

    def add(self, counter: Counter, amount: float, label: str) -> None:
        """Take that a counter grew."""
        metric = self._counters[counter]
        (metric.labels(label) if counter in _LABELS else metric).inc(amount)

    def set(self, level: Level, value: float, label: str) -> None:
        """Take how high a level is now."""
        self._queue.labels(label).set(value)


@contextmanager
def serving_metrics(port: int | None, *, host: str = LOOPBACK) -> Iterator[None]:
    """Serve the metrics of what runs inside the `with` block at http://HOST:PORT/metrics.

    Raises:
        UsageError: prometheus-client is not installed, or the port is taken.
    """
    if port is None:
        yield
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise UsageError(
            "metrics: prometheus-client is not installed (--metrics-port needs it); run "
            "`pip install 'video2lora[metrics]'`"
        ) from error
    collected = CollectorRegistry()
    sink = PrometheusSink(collected)
    try:
        server, thread = start_http_server(port, addr=host, registry=collected)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"metrics: cannot listen at {host}:{port} ({error}); give another --metrics-port"
        ) from error
    try:
        with measuring(sink):
            yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
