"""The command line: ``korsbert`` and ``korsbert-export``.

::

    main.py           the table of commands, entry points, exit codes
    export.py         export
    bundles.py        list, show, validate
    doctor.py         doctor
    listing.py        bundles
    encode.py         encode
    embed.py          embed
    bench.py          bench
    golden.py         golden
    compare.py        compare
    hub.py            push
    verify.py         verify
    triton.py         ship, check
    signing.py        sign, verify-signature
    arguments.py      arguments and options that several commands have
    from_options.py   options of a command from the fields of a model
    flags.py          errors: option names of the library become flags
    reports.py        JUnit XML, a summary in Markdown, a page
    output.py         tables, JSON, progress
"""

from exporter.cli.main import export_main, main

__all__ = ["export_main", "main"]
