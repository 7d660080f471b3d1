"""``korsbert push``: a bundle to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporter.cli.arguments import GatesOption, JsonFlag, QuietFlag, RecipeOption
from exporter.cli.completion import bundle_folders
from exporter.cli.output import print_json, print_table
from exporter.cli.progress import progress


def push_command(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE",
            help="Folder of the bundle.",
            autocompletion=bundle_folders,
        ),
    ],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository; created if missing.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="Branch; created if missing (default: main).")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", metavar="TEXT", help="Commit message.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    unvalidated: Annotated[
        bool, typer.Option("--unvalidated", help="Also push a bundle whose engine no machine has validated.")
    ] = False,
    recipe: RecipeOption = None,
    gates: GatesOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files and their sizes, and make no request.")
    ] = False,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Push a bundle to the Hugging Face hub, in one commit. The token is that of HF_TOKEN or of `hf auth login`."""
    from exporter.bundle import Bundle
    from exporter.bundle.minimum_gate import minimum_gate_of
    from exporter.bundle.pushing import PushOptions, push

    minimum_gate = minimum_gate_of(gates, recipe)
    options = PushOptions(private, revision, message, create_pr, unvalidated, dry_run)
    with progress("opening the bundle", quiet=quiet or dry_run) as stages:
        opened = Bundle.open(bundle)
        with stages(f"push to {repository}") as stage:
            pushed = push(opened, repository, options, minimum_gate)
            stage.result = f"{len(pushed.files)} files, {sum(pushed.files.values()) / 1e6:.1f} MB"
    if as_json:
        print_json(
            {
                "repository": pushed.repository,
                "commit": pushed.commit,
                "url": pushed.url,
                "pull_request": pushed.pull_request,
                "files": pushed.files,
            }
        )
        return
    rows = [(name, f"{size / 1e6:.3f} MB") for name, size in pushed.files.items()]
    rows.append((f"{len(rows)} files", f"{sum(pushed.files.values()) / 1e6:.1f} MB"))
    print_table(("", f"{pushed.repository}{' (dry run: nothing is pushed)' if dry_run else ''}"), rows)
    if pushed.commit is not None:
        print(f"{pushed.pull_request or pushed.url}")  # noqa: T201
        print(f"korsbert.load({pushed.repository!r}, revision={pushed.commit!r})")  # noqa: T201
