"""Build one twin and print where it is: ``python -m tests.support.twins NAME FOLDER``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.support.twins import ALL_TWINS, build_twin


def main(arguments: list[str] | None = None) -> None:
    """Run ``python -m tests.support.twins``: build one twin and print where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.twins", description="Build a twin of a published checkpoint."
    )
    parser.add_argument("name", choices=ALL_TWINS, help="whose twin")
    parser.add_argument("folder", type=Path, help="where to write it")
    parser.add_argument("--full", action="store_true", help="the original's sizes; without it a small one for tests")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    options = parser.parse_args(arguments)
    print(build_twin(options.name, options.folder, size="full" if options.full else "small", seed=options.seed))


if __name__ == "__main__":
    main()
