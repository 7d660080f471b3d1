"""korsbert: from a sentence-transformers checkpoint to a serving artifact proven equal to it.

The public names are those of ``__init__.pyi``. They are imported on use, so that ``import exporter`` costs next to
nothing and imports neither torch nor onnx.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
