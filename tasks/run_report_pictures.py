"""What the page about a run draws: throughput over time, and where the time went."""

from collections.abc import Sequence
from typing import Any, Final

from tasks.html_page import Picture
from tasks.pictures import PALETTE, drawing, svg_of

_BINS: Final = 24


def throughput_picture(units: Sequence[dict[str, Any]]) -> Picture | None:
    """Draw segments per second over time, and their sum; None where fewer than two units closed."""
    timed = [unit for unit in units if unit["num_segments"]]
    if len(timed) < 2:
        return None
    start_us = min(unit["began_us"] for unit in timed)
    end_us = max(unit["at_us"] for unit in timed)
    width_us = max(1, (end_us - start_us) // _BINS + 1)
    rates = [count / (width_us / 1e6) for count in _binned(timed, start_us, width_us)]
    unit_s, unit_name = _scale((end_us - start_us) / 1e6)
    middles = [(k + 0.5) * width_us / 1e6 / unit_s for k in range(len(rates))]
    with drawing(height_in=3.2, num_axes=2) as (figure, (rate_axes, sum_axes)):
        rate_axes.bar(middles, rates, width=width_us / 1e6 / unit_s, color=PALETTE[0])
        rate_axes.set_ylabel("segments/s")
        times = [(unit["at_us"] - start_us) / 1e6 / unit_s for unit in timed]
        sums = _running([unit["num_segments"] for unit in timed])
        sum_axes.step([0.0, *times], [0, *sums], where="post", color=PALETTE[1])
        sum_axes.set_ylabel("segments committed")
        for axes in (rate_axes, sum_axes):
            axes.set_xlabel(f"{unit_name} since the first shard began")
            axes.set_ylim(bottom=0)
        svg = svg_of(figure)
    text = (
        f"Throughput: {sums[-1]} segments in {(end_us - start_us) / 1e6 / unit_s:.1f} {unit_name}. "
        "A unit's segments are spread over the time since its shard's last commit; where "
        "nothing is drawn, nobody worked."
    )
    return Picture(svg=svg, text=text)


def busy_picture(shards: Sequence[dict[str, Any]]) -> Picture | None:
    """Draw what share of the time a device was held it was busy, and decoding beside it."""
    timed = [shard for shard in shards if shard["wall_s"] > 0]
    if not any(shard["decode_s"] + shard["device_s"] for shard in timed):
        return None
    shown = sorted(timed, key=lambda shard: shard["wall_s"], reverse=True)[:16]
    wall_s = sum(shard["wall_s"] for shard in timed)
    shares = {
        "decode": [100 * shard["decode_s"] / shard["wall_s"] for shard in shown],
        "device": [100 * shard["device_s"] / shard["wall_s"] for shard in shown],
    }
    total = {kind: sum(shard[f"{kind}_s"] for shard in timed) / wall_s * 100 for kind in shares}
    with drawing(height_in=1.2 + 0.3 * len(shown)) as (figure, (axes,)):
        for k, (kind, values) in enumerate(shares.items()):
            places = [row + (k - 0.5) * 0.38 for row in range(len(shown))]
            axes.barh(places, values, height=0.36, color=PALETTE[k], label=kind)
        axes.set_yticks(range(len(shown)), [f"shard {shard['shard']}" for shard in shown])
        axes.invert_yaxis()
        axes.set_xlabel("busy, percent of the time that the shard ran")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        svg = svg_of(figure)
    slower = max(total, key=lambda kind: total[kind])
    text = (
        f"Decode against device: {total['decode']:.0f}% and {total['device']:.0f}% of the time "
        "that devices were held. Decoding counts every reader, so several readers may exceed "
        f"100%. {slower.capitalize()} takes more."
    )
    return Picture(svg=svg, text=text)


def _binned(units: Sequence[dict[str, Any]], start_us: int, width_us: int) -> list[float]:
    """Spread each unit's segments evenly over the time that it took."""
    counts = [0.0] * _BINS
    for unit in units:
        begin, end = unit["began_us"] - start_us, unit["at_us"] - start_us
        span_us = max(1, end - begin)
        for k in range(_BINS):
            inside = min(end, (k + 1) * width_us) - max(begin, k * width_us)
            if end == begin:
                inside = int(k * width_us <= begin < (k + 1) * width_us)
            counts[k] += unit["num_segments"] * max(0, inside) / span_us
    return counts


def _running(counts: Sequence[int]) -> list[int]:
    total, sums = 0, []
    for count in counts:
        total += count
        sums.append(total)
    return sums


def _scale(seconds: float) -> tuple[float, str]:
    if seconds > 2 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if seconds > 180 else (1.0, "seconds")
