"""Memory that a command will need, held against what it may have, before it starts.

An estimate is what the process holds already plus the parts still to come, each from sizes known beforehand. What a
process may have is the least of its own limits (``ulimit -v``, ``ulimit -d``), its control group's, and what the
system has left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

MI = 2**20
SLACK = 96 * MI  # modules that are loaded on the way, buffers of the allocator, a picture
FEW = 2**40  # a limit above that is none


class Stated(Exception):
    """The estimate was all that was asked for; the message states it."""


class _Wish:
    """Whether the estimate is all that is wanted (``prunopt --estimate COMMAND``)."""

    only = False


def only_estimate(wanted: bool) -> None:
    """Make the next `require` raise `Stated`, so that a command leaves with its estimate before it starts."""
    _Wish.only = wanted


def require(what: str, parts: Mapping[str, float], mend: str) -> int:
    """Return the estimate of the resident memory in bytes, or refuse where there is too little.

    Parameters
    ----------
    what
        Whose estimate it is: a command.
    parts
        Bytes still to be asked for, by what they are for.
    mend
        What to do about too little.

    Raises
    ------
    MemoryError
        Stating the estimate, if less is left.
    Stated
        If `only_estimate` was asked for.
    """
    more = sum(parts.values()) + SLACK
    now = _status("VmRSS")
    listed = ", ".join(f"{name} {size(b)}" for name, b in sorted(parts.items(), key=lambda p: -p[1]))
    said = f"{what} needs about {size(now + more)} of memory ({listed}, the program {size(now + SLACK)})"
    if _Wish.only:
        raise Stated(said)
    left, whose = room()
    if more > left:
        raise MemoryError(f"{said}; {whose} leaves {size(max(0, now + left))}: {mend}")
    return int(now + more)


def size(count: float) -> str:
    """Return a number of bytes for people."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / MI:.0f} MiB"


def room() -> tuple[float, str]:
    """Return how many bytes more this process may ask for, and whose limit that is; infinity where none is known."""
    found = [(float("inf"), "nothing")]
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        for limit, held, name in (
            (resource.RLIMIT_AS, "VmSize", "the limit on address space (ulimit -v)"),
            (resource.RLIMIT_DATA, "VmData", "the limit on data (ulimit -d)"),
        ):
            cap = resource.getrlimit(limit)[0]
            if cap != resource.RLIM_INFINITY:
                found.append((cap - _status(held), name))
    for most, used in _groups():
        if most < FEW:
            found.append((most - used, "the control group"))
    with contextlib.suppress(OSError, LookupError, ValueError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append((int(lines["MemAvailable"].split()[0]) * 1024, "the system"))
    return min(found)


def _groups() -> list[tuple[float, float]]:
    """Limits of this process's control groups, and what these hold that cannot be given back."""
    out = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            old = "memory" in kinds.split(",")
            if not old and kinds:
                continue
            base = Path("/sys/fs/cgroup/memory" if old else "/sys/fs/cgroup")
            place = base / path.strip("/")
            while True:  # the limits of the groups around it hold, too
                with contextlib.suppress(OSError, ValueError):
                    most = float((place / ("memory.limit_in_bytes" if old else "memory.max")).read_text())
                    used = float((place / ("memory.usage_in_bytes" if old else "memory.current")).read_text())
                    kept = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
                    name = "total_inactive_file" if old else "inactive_file"
                    out.append((most, used - float(kept.get(name, 0))))
                if place == base:
                    break
                place = place.parent
    return out


def _status(name: str) -> float:
    """Return a figure of /proc/self/status in bytes; 0 where the system has none."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024
    return 0.0
