"""What Python users call. ``exporter`` has the same names, imported on use.

::

    loading.py     load: a bundle for encoding
    exporting.py   export, export_precisions, tune: a checkpoint to bundles
    judging.py     validate, record_validation, assert_embeddings_match, write_golden: vectors against a checkpoint's
    comparing.py   compare: two bundles, servers or files of vectors
    embedding.py   embed: the texts of a dataset to vectors
    pushing.py     push: a bundle to the Hugging Face hub
    arguments.py   paths, devices and precisions as users give them
"""

from exporter.api.comparing import compare
from exporter.api.embedding import embed
from exporter.api.exporting import export, export_precisions, tune
from exporter.api.judging import assert_embeddings_match, record_validation, validate, write_golden
from exporter.api.loading import load
from exporter.api.pushing import push

__all__ = [
    "assert_embeddings_match",
    "compare",
    "embed",
    "export",
    "export_precisions",
    "load",
    "push",
    "record_validation",
    "tune",
    "validate",
    "write_golden",
]
