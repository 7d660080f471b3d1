"""The command line: ``korsbert`` and ``korsbert-export``.

::

    main.py           entry points, exit codes
    commands.py       the table of commands, each imported on use
    export.py         export
    tune.py           tune
    dry_run.py        export --dry-run
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
    help.py           help pages: groups of options, examples
    completion.py     what a shell completes: recipes, bundles
    reports.py        JUnit XML, a summary in Markdown, a page
    output.py         tables, JSON
    columns.py        how wide the columns of a table are
    progress.py       stages on stderr: a spinner, or lines
    interruption.py   what Ctrl-C says
"""

import sys

try:
    from exporter.cli.main import export_main, main
except KeyboardInterrupt:  # while a shell completes a word, for example: nothing else has begun
    sys.exit(130)

__all__ = ["export_main", "main"]
