"""Figures before and after for people: what reports, cards and the command line show of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CALIBRATION, SECOND = "calibration", "second_text"  # names of the texts of `prunopt prune`


def figure_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what `before_after.compared` found as lines for people: a name, before, after."""
    told = {CALIBRATION: "calibration text, held out", SECOND: "second text"}
    out = []
    for name, row in found.get("perplexity", {}).items():
        about = f"perplexity, {told.get(name, name)} ({row['tokens']:,} tokens)"
        out.append((about, f"{row['before']:.2f}", f"{row['after']:.2f}"))
    for name, error in found.get("output_error", {}).items():
        about = f"relative error of the outputs, {told.get(name, name)} (no next-token model: no perplexity)"
        out.append((about, "0", f"{error:.3g}"))
    if "parameters" in found:
        out.append(("parameters", f"{found['parameters']['before']:,}", f"{found['parameters']['after']:,}"))
    if "bytes" in found:
        old, new = (f"{found['bytes'][k] / 1e6:,.1f} MB" for k in ("before", "after"))
        out.append(("bytes", old, new))
    if "tokens_per_second" in found:
        rate = found["tokens_per_second"]
        out.append(("tokens per second, one pass", f"{rate['before']:,.0f}", f"{rate['after']:,.0f}"))
    return out
