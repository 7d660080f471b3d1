"""Encoders and real text in, throughput out.

::

    timing.py     encoders, timed in turns
    bundles.py    a bundle beside its checkpoint and other bundles
"""

from exporter.benchmark.bundles import REFERENCE, Throughput, bench_bundle, int8_verdict, siblings_of
from exporter.benchmark.timing import (
    Encode,
    Subject,
    encode_of,
    evenly_spread,
    measure,
    reference_encode,
    torch_threads,
)

__all__ = [
    "REFERENCE",
    "Encode",
    "Subject",
    "Throughput",
    "bench_bundle",
    "encode_of",
    "evenly_spread",
    "int8_verdict",
    "measure",
    "reference_encode",
    "siblings_of",
    "torch_threads",
]
