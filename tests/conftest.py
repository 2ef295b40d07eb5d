"""What all tests share."""

from __future__ import annotations

import signal

# A job that was started in the background inherits SIGINT ignored; the tests of interrupts need Python's own handler.
signal.signal(signal.SIGINT, signal.default_int_handler)
