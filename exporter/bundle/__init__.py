"""The published folder: its manifest and hashes, its signature, its model card, and the minimum gate.

::

    manifest.py      the schema of manifest.json and validation.json
    bundle.py        an opened bundle: every file verified
    listing.py       what lies in a folder of bundles, by manifests alone
    finding.py       where a bundle is: a folder, or a repository on the hub
    pushing.py       a bundle to a repository on the hub, in one commit
    atomic.py        folders and files that appear whole
    publish.py       a staged folder becomes a bundle
    signing.py       signatures, made and verified
    minimum_gate.py  the least strict gate that a bundle is accepted with
    model_card.py    the README of a bundle
"""

from exporter.bundle.bundle import Bundle
from exporter.bundle.manifest import (
    MANIFEST,
    PARITY,
    RECORD,
    TOKENIZER,
    FileFacts,
    GraphFacts,
    Manifest,
    QuantizationFacts,
    RangesFacts,
    Record,
    Validation,
)

__all__ = [
    "MANIFEST",
    "PARITY",
    "RECORD",
    "TOKENIZER",
    "Bundle",
    "FileFacts",
    "GraphFacts",
    "Manifest",
    "QuantizationFacts",
    "RangesFacts",
    "Record",
    "Validation",
]
