"""mteb's own tasks over an encoder, by the class that ``docs/stored-vectors.md`` shows, and over its checkpoint."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.process import run_program

# The small tasks that mteb has for models under development: no data set is downloaded.
TASKS = """
import json, sys
import mteb
from mteb.mocks.mock_tasks import MockRetrievalTask, MockSTSTask
from sentence_transformers import SentenceTransformer
import korsbert

def scores_of(model):
    results = mteb.evaluate(model, [MockSTSTask(), MockRetrievalTask()], cache=None, show_progress_bar=False)
    return {one.task_name: one.scores["test"][0] for one in results.task_results}

models = Embedder(korsbert.load(sys.argv[1])), SentenceTransformer(sys.argv[2])
print(json.dumps([scores_of(model) for model in models]))
"""


def test_mteb_gives_an_encoder_the_scores_of_its_checkpoint(demo_fp32: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "stored-vectors.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(from mteb.*?)```", page, re.DOTALL)
    assert found is not None
    script = tmp_path / "tasks.py"
    script.write_text(found[1] + TASKS, encoding="utf-8")
    checkpoint = ROOT / "recipes" / "demo" / "checkpoint"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = run_program([sys.executable, script, demo_fp32, checkpoint], cwd=tmp_path, environment=offline)
    assert done.status == 0, done
    of_encoder, of_checkpoint = json.loads(done.stdout.splitlines()[-1])
    assert of_encoder.keys() == of_checkpoint.keys() == {"MockSTSTask", "MockRetrievalTask"}
    for task, scores in of_checkpoint.items():
        numbers = {name: value for name, value in scores.items() if isinstance(value, float)}
        assert {"main_score"} < numbers.keys()
        for name, value in numbers.items():
            assert of_encoder[task][name] == pytest.approx(value, abs=1e-5, nan_ok=True), name
