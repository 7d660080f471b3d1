"""OpenVINO's core, which all engines of a process share."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import pytest

from exporter.engines.openvino import XML
from tests.support.process import run_program

# Two engines are open at a time and closed in the order in which they were opened, or one is closed in another thread.
SIGNALLED = """
import gc, os, signal, sys, threading
from pathlib import Path
from exporter.engines import Engine, EngineFiles, backend_of
from exporter.targets import Backend

def opened():
    return BACKEND.open(ENGINE, EngineFiles.read(ENGINE, FOLDER), "cpu", 1)

def close(runners):
    while runners:
        runners.pop(0).__exit__()
        gc.collect()

FOLDER, closed_by = Path(sys.argv[1]), sys.argv[2]
BACKEND = backend_of("openvino")
ENGINE = Engine(backend=Backend.OPENVINO, precision="fp32", files=("openvino_model.xml", "openvino_model.bin"))
runners = [opened(), opened()]
if closed_by == "this thread":
    close(runners)
else:
    other = threading.Thread(target=close, args=(runners,))
    other.start()
    other.join()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGINT)
print("alive")
"""


@pytest.mark.parametrize("closed_by", ["this thread", "another thread"])
def test_a_signal_is_handled_after_engines_are_closed(closed_by: str, tmp_path: Path) -> None:
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    ov.save_model(ov.Model([ops.convert(ids, "f32")], [ids]), tmp_path / XML)
    done = run_program([sys.executable, "-c", SIGNALLED, tmp_path, closed_by])
    assert (done.status, done.stdout.split()) == (0, ["handled", "alive"]), done


FORKED = """
import os
from exporter.engines.openvino import shared_core

core = shared_core()
assert shared_core() is core
process = os.fork()
if process == 0:
    os._exit(0 if shared_core() is not core else 1)
print(os.waitpid(process, 0)[1])
"""


def test_a_forked_process_has_a_core_of_its_own() -> None:
    done = run_program([sys.executable, "-c", FORKED])
    assert (done.status, done.stdout) == (0, "0\n"), done
