"""Shell completion: what is completed, in each shell, and that it waits for nothing heavy."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exporter.cli.completion import bundle_folders, recipe_names
from exporter.recipe import list_recipes
from tests.support.process import Done, run_program

ROOT = Path(__file__).parents[3]
PROGRAM = "import sys; sys.argv = ['korsbert', *sys.argv[1:]]; from exporter.cli.main import main; "


def complete(shell: str, line: str, cwd: Path | None = None, after: str = "") -> Done:
    """Ask as the script of a shell asks for the last word of a line."""
    words = line.split(" ")
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    code = f"{PROGRAM}\ntry:\n    main()\nfinally:\n    {after or 'pass'}"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "_KORSBERT_COMPLETE": f"complete_{shell}", **asked}
    return run_program([sys.executable, "-c", code], cwd=cwd, environment=environment)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("korsbert exp", "export"),
        ("korsbert export --model ko-sbert", "ko-sbert-multitask\nko-sbert-sts"),
        ("korsbert export --backend tensorrt", "tensorrt\ntensorrt-rtx"),
        ("korsbert verify http://h:1 b --precision int", "int8\nint8_dynamic"),
        ("korsbert export --int", "--int8\n--int8-dynamic"),
    ],
)
def test_words_in_bash(line: str, wanted: str) -> None:
    done = complete("bash", line)
    assert (done.status, done.stdout, done.stderr) == (0, f"{wanted}\n", "")


def test_words_have_explanations_in_zsh_and_fish() -> None:
    assert '"export":"Export a checkpoint to a bundle."' in complete("zsh", "korsbert exp").stdout
    assert complete("fish", "korsbert exp").stdout == "export\tExport a checkpoint to a bundle.\n"


def test_a_bundle_of_the_default_folder(tmp_path: Path) -> None:
    bundle = tmp_path / "artifacts" / "demo" / "fp16-onnxruntime"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").touch()
    assert complete("bash", "korsbert show ", tmp_path).stdout == "artifacts/demo/fp16-onnxruntime\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    detected = f"import shellingham; shellingham.detect_shell = lambda: ('{shell}', ''); "
    done = run_program([sys.executable, "-c", f"{detected}{PROGRAM}main()", "--show-completion"])
    assert (done.status, done.stderr) == (0, "")
    assert f"_KORSBERT_COMPLETE=complete_{shell}" in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout.encode(), check=True)


@pytest.mark.parametrize("function", ["main", "export_main"])
def test_a_shell_that_is_not_supported_is_no_failed_gate(function: str) -> None:
    detected = "import shellingham; shellingham.detect_shell = lambda: ('tcsh', ''); "
    program = f"{detected}{PROGRAM}from exporter.cli import {function}; {function}()"
    done = run_program([sys.executable, "-c", program, "--show-completion"])
    assert done.status == 2
    assert "Shell tcsh not supported." in done.stderr


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("korsbert export --model albert-sm", "albert-small"),
        ("korsbert-export --model albert-sm", "albert-small"),
        ("korsbert-export --int8-d", "--int8-dynamic"),
        ("korsbert bund", "bundles"),
    ],
)
def test_the_tab_key_in_bash(tmp_path: Path, typed: str, wanted: str) -> None:
    """A real bash on a real terminal, with the scripts that the two programs print."""
    for program, function in (("korsbert", "main"), ("korsbert-export", "export_main")):
        path = tmp_path / program
        path.write_text(f"#!{sys.executable}\nfrom exporter.cli import {function}\n{function}()\n")
        path.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "TERM": "dumb", "PS1": "$ "}
    master, slave = pty.openpty()
    with subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=tmp_path
    ) as shell:
        os.close(slave)
        try:
            program = typed.split(maxsplit=1)[0]
            ready = f'{program} --show-completion > s && . ./s && echo rea""dy\n'
            os.write(master, ready.encode())
            assert "ready" in read_until(master, "ready")
            os.write(master, f"{typed}\t".encode())
            assert wanted in read_until(master, wanted)
        finally:
            shell.kill()
            os.close(master)


def read_until(terminal: int, wanted: str, seconds: float = 60) -> str:
    """Return what a terminal shows until a text is there, or for so long."""
    shown, end = "", time.monotonic() + seconds
    while wanted not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


def test_ctrl_c_while_a_word_is_completed_shows_nothing(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = run_program([sys.executable, "-c", "import exporter.cli"], environment=environment)
    assert (done.status, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("line", ["korsbert exp", "korsbert show ", "korsbert validate --d", "korsbert ship --run"])
def test_completion_imports_nothing_heavy(line: str) -> None:
    after = "print('\\n'.join(sys.modules), file=sys.stderr)"
    modules = set(complete("bash", line, after=after).stderr.split())
    assert "typer" in modules
    # typer itself imports pydantic, to convert arguments.
    assert not modules & {"torch", "numpy", "onnx", "yaml", "huggingface_hub", "rich.console", "exporter.options"}


def test_completion_of_an_export_imports_no_torch() -> None:
    modules = set(
        complete("bash", "korsbert export --model d", after="print(*sys.modules, file=sys.stderr)").stderr.split()
    )
    assert not modules & {"torch", "numpy", "onnx", "huggingface_hub"}


def test_recipes_are_those_that_are_listed() -> None:
    assert recipe_names("") == sorted(recipe.name for recipe in list_recipes())
    assert recipe_names("./") == []


def test_folders_lead_to_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("out/demo/fp32", "out/other", ".hidden"):
        Path(name).mkdir(parents=True)
    Path("out/demo/fp32/manifest.json").touch()
    Path("out/notes.txt").touch()
    assert bundle_folders("") == ["out/demo/", "out/other/"]  # "out/" alone would get a space behind it in bash
    assert bundle_folders("o") == ["out/demo/", "out/other/"]
    assert bundle_folders("out/") == ["out/demo/", "out/other/"]
    assert bundle_folders("./out/d") == ["./out/demo/fp32"]
    assert bundle_folders("out/demo/") == ["out/demo/fp32"]
    assert bundle_folders(str(tmp_path / "out" / "demo" / "f")) == [str(tmp_path / "out" / "demo" / "fp32")]
    assert bundle_folders(".h") == []
    Path(".hidden/loop").symlink_to(".")
    assert bundle_folders(".h") == []
    assert bundle_folders("nowhere/") == []
    assert bundle_folders("owner/na") == []


@pytest.mark.parametrize(
    "name", ["x;touch P", "$(touch P)", "\\$(touch P)", "two words", "`touch P`", "line\nbreak", "'x"]
)
def test_a_name_that_a_shell_would_run_is_not_completed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (Path(name), Path("artifacts", "demo", name), Path("한글-bundle_1.0")):
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
    assert bundle_folders("") == []
    assert bundle_folders(name[:1]) == []
    assert bundle_folders("한") == ["한글-bundle_1.0"]


def test_a_name_like_that_of_a_user_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~nobody-of-this-name").mkdir()
    Path("~another").mkdir()
    assert bundle_folders("./~") == ["./~another/", "./~nobody-of-this-name/"]
