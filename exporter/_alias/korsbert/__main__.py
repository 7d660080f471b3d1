"""``python -m korsbert``: the command line."""

from exporter.cli import main

main()
