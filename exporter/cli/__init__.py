"""The command line: ``korsbert`` and ``korsbert-export``.

::

    main.py         the table of commands, entry points, exit codes
    export.py       export
    bundles.py      list, show, validate, encode
    bench.py        bench
    triton.py       ship, check, verify
    signing.py      sign, verify-signature
    arguments.py    arguments and options that several commands have
    flags.py        errors: option names of the library become flags
    output.py       tables, JSON, progress
"""

from exporter.cli.main import export_main, main

__all__ = ["export_main", "main"]
