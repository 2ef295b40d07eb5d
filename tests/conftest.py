"""What all tests share."""

from __future__ import annotations

import os
import signal

if "PYTEST_XDIST_WORKER" in os.environ:  # workers with several threads each mostly wait for one another
    for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

# A job that was started in the background inherits SIGINT ignored; the tests of interrupts need Python's own handler.
signal.signal(signal.SIGINT, signal.default_int_handler)
