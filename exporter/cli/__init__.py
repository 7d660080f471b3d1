"""The command line: ``korsbert`` and ``korsbert-export``.

::

    main.py       the commands, and exit codes
    triton.py     ``korsbert ship``
    signing.py    ``korsbert sign`` and ``korsbert verify-signature``
    output.py     what commands print with
"""

from exporter.cli.main import export_main, main

__all__ = ["export_main", "main"]
