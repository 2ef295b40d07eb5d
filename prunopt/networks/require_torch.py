"""Imported first by packages that are of no use without torch: the error names the extra."""

from __future__ import annotations

from prunopt.core.extras import require

require("torch")
