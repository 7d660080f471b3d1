"""A folder or a hub id to the reference: copied, hashed, loaded, and compared with its own files.

::

    hub.py               a hub id to a folder of exactly one commit
    layout.py            the modules of a checkpoint, and where they stand
    rules.py             which keys of a JSON file a loader may see
    configuration.py     the rules of each of a checkpoint's JSON files
    snapshot.py          a private copy of a checkpoint's files, hashed as it is written
    declared_sizes.py    sizes in the configuration, compared with the weight files before a model is built
    limits.py            how many tokens per sentence may be asked for
    headers.py           safetensors files, as far as their headers go
    weights.py           weight files, opened as data
    stored_names.py      which tensor of the files each parameter comes from
    parameters.py        the parameters of a loaded module, compared with these tensors bit for bit
    tokenizer_anchor.py  a checkpoint's tokenizer by its own files, without transformers
    libraries.py         calls into transformers and its kin: silent, and what they raise in one sentence
    reference.py         the reference and its facts
    facts.py             what is read from a loaded reference
    checks.py            what a loaded reference must be: able to encode, and what its recipe says
    loading.py           a recipe to the reference: all of this in order
    place.py             where the checkpoint of a recipe stands: a folder, or a commit of the hub
    early.py             what a folder's JSON files and the headers of its weights are refused for, without torch

The public names are those of ``__init__.pyi``. They are imported on use: ``early.py`` must not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
