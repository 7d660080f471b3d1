"""Golden files: what a checkpoint answers to the probes, kept in one file. A gate then needs no torch, weights or hub.

::

    content.py   what a golden file holds
    file.py      how it is written, read and signed
    making.py    a checkpoint to the content of a golden file
    judging.py   a bundle and a golden file to a parity report
"""

from exporter.golden.content import Golden, GoldenFacts
from exporter.golden.file import read_golden, sign_golden, signature_of, write_golden

__all__ = ["Golden", "GoldenFacts", "read_golden", "sign_golden", "signature_of", "write_golden"]
