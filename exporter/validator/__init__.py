"""Reference and candidate in, ParityReport out.

``probes`` holds the text, ``parity`` the numbers, ``sts`` the task, ``gates`` the verdicts, ``diagnosis`` the likely
cause of a failure, ``check`` what is proven besides them, and ``report`` what is written down. ``validate`` is all of
it. ``sweeps/`` covers word rows, positions, batch sizes and padded widths.
"""

from exporter.validator.check import Check
from exporter.validator.report import ParityReport
from exporter.validator.validate import Reference, validate

__all__ = ["Check", "ParityReport", "Reference", "validate"]
