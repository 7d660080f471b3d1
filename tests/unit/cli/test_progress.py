"""Progress on stderr: lines where there is no terminal, and a table of the stages before an error on one."""

from __future__ import annotations

import errno
import io
import re
import threading
from collections.abc import Callable
from contextlib import redirect_stderr

import pytest
from rich.console import Console

from exporter.cli import progress as module
from exporter.cli.progress import in_turn, print_stages, progress
from exporter.errors import GateError, InputError
from exporter.stages import Stages
from tests.support.process import split_stages


def fail_in_the_second(error: BaseException, stages: Stages) -> None:
    with stages("load checkpoint"):
        pass
    with stages("fold into one graph"):
        raise error


def untimed(lines: str) -> str:
    """The lines with a dash for the seconds of a stage: how long one takes depends on what else the machine does."""
    return re.sub(r"\d+\.\d s\b", "- s", lines)


def export(stages: Stages) -> None:
    """Load, judge, and fail as a gate does: after its stage."""
    with stages("load checkpoint") as stage:
        stage.result = "BertModel, mean pooling, 384-d"
    with stages("gate: fp16 on onnxruntime") as stage:
        stage.result, stage.failed = "min cosine 0.9", True
    raise GateError("too far", report={})


def test_a_line_for_each_stage_as_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("importing torch") as stages:
        with stages("load checkpoint") as stage:
            stage.result = "BertModel, mean pooling, 384-d"
            assert capsys.readouterr().err == ""
        assert untimed(capsys.readouterr().err) == "load checkpoint: - s, BertModel, mean pooling, 384-d\n"
        with stages("publish"):
            pass
        assert untimed(capsys.readouterr().err) == "publish: - s\n"
    assert capsys.readouterr().out == ""


def test_a_first_stage_that_fails_is_told_by_the_error_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError), progress("importing torch") as stages, stages("load checkpoint"):
        raise InputError("damaged")
    assert capsys.readouterr().err == ""


def test_a_later_stage_that_fails_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError), progress("importing torch") as stages:
        fail_in_the_second(InputError("cannot be folded"), stages)
    assert untimed(capsys.readouterr().err) == "load checkpoint: - s\nfold into one graph: - s, FAILED\n"


def test_a_gate_that_fails_has_a_line_and_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GateError), progress("importing torch") as stages:
        export(stages)
    err = capsys.readouterr().err
    assert untimed(err).splitlines()[1] == "gate: fp16 on onnxruntime: - s, FAILED, min cosine 0.9"
    assert split_stages(err) == (["load checkpoint", "gate: fp16 on onnxruntime"], "")


def test_an_interrupt_has_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), progress("importing torch") as stages:
        fail_in_the_second(KeyboardInterrupt(), stages)
    assert untimed(capsys.readouterr().err) == "load checkpoint: - s\n"


def test_quiet_shows_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("importing torch", quiet=True) as stages:
        stages.warn("few sentences")
        with pytest.raises(GateError):
            export(stages)
    assert capsys.readouterr().err == "warning: few sentences\n"


def test_a_stage_that_takes_long_is_told_with_its_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        if "5 of 24" in line:
            told.set()

    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.01)
    monkeypatch.setattr(module, "_print_line", keep)
    with progress("importing torch") as stages, stages("calibrate and search"):
        stages.progress("search: 5 of 24")
        assert told.wait(60)
    assert "calibrate and search: 0 s so far, search: 5 of 24" in lines
    assert not [thread for thread in threading.enumerate() if "watch" in thread.name]  # it has ended


def test_details_alone_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("importing torch") as stages, stages("calibrate and search"):
        for number in range(100):
            stages.progress(f"candidate {number}")
        assert capsys.readouterr().err == ""


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("") as stages, stages("load") as stage:
        stage.result = "Bert\x1b[2J\nModel"
    assert untimed(capsys.readouterr().err) == "load: - s, Bert\\x1b[2J\\nModel\n"


class Full(io.StringIO):
    """A stream on a disk that is full."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_that_cannot_be_written_does_not_end_the_work() -> None:
    with redirect_stderr(Full()), progress("importing torch") as stages, stages("load checkpoint"):
        pass
    assert [stage.name for stage in stages.done] == ["load checkpoint"]


def test_colors_that_are_forced_do_not_make_a_pipe_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("importing torch") as stages:
        with stages("load checkpoint") as stage:
            stage.result = "BERT"
        stages.warn("careful")
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.startswith("load checkpoint: ")
    assert err.endswith("warning: careful\n")


def test_a_terminal_has_a_table_before_the_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(stderr=True, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(module, "stderr_console", lambda: terminal)
    monkeypatch.setattr(module, "_draws", lambda _: True)
    with pytest.raises(GateError), progress("importing torch") as stages:
        export(stages)
    out, err = capsys.readouterr()
    assert out == ""
    table = err[err.index(" stage ") :]
    assert [line.split("  ")[0].strip() for line in table.splitlines() if " s " in line] == [
        "load checkpoint",
        "gate: fp16 on onnxruntime",
    ]
    assert "FAILED, min cosine 0.9" in table
    assert "total" not in table


def test_a_terminal_has_no_table_where_the_first_stage_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(stderr=True, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(module, "stderr_console", lambda: terminal)
    monkeypatch.setattr(module, "_draws", lambda _: True)
    with pytest.raises(InputError), progress("importing torch") as stages, stages("load checkpoint"):
        raise InputError("damaged")
    assert "stage" not in capsys.readouterr().err


def test_a_table_ends_with_the_total(capsys: pytest.CaptureFixture[str]) -> None:
    stages = Stages()
    with stages("load checkpoint"):
        pass
    print_stages(stages)
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines() if " s " in line] == ["load", "total"]
    assert err == ""


def test_stages_in_turn() -> None:
    stages = Stages()

    def two(begin: Callable[[str], None]) -> None:
        begin("one")
        begin("two")
        assert [stage.name for stage in stages.done] == ["one"]
        raise InputError("wrong")

    with pytest.raises(InputError), in_turn(stages) as begin:
        two(begin)
    assert [(stage.name, stage.failed) for stage in stages.done] == [("one", False), ("two", True)]
