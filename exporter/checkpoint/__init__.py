"""A folder or a hub id to the reference: copied, hashed, loaded, and compared with its own files.

::

    hub.py               a hub id to a folder of exactly one commit
    layout.py            the modules of a checkpoint, and where they stand
    configuration.py     which keys of a checkpoint's JSON files a loader may see
    snapshot.py          a private copy of a checkpoint's files, hashed as it is written
    declared_sizes.py    sizes in the configuration, compared with the weight files before a model is built
    weights.py           weight files opened as data, compared with the parameters bit for bit
    tokenizer_anchor.py  a checkpoint's tokenizer by its own files, without transformers
    loading.py           the reference: loaded, compared with its files and its recipe, read for facts
"""

from exporter.checkpoint.loading import TOKEN_BUDGET, Checkpoint, load_checkpoint, load_source

__all__ = ["TOKEN_BUDGET", "Checkpoint", "load_checkpoint", "load_source"]
