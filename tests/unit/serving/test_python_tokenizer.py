"""``models/tokenizer.py``: one request whose response fails costs no other, with a stand-in for the backend."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from exporter.runtime import tokens
from exporter.serving.triton import models as models_folder
from tests.support.python_backend import Request, executed, install, texts


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    install(monkeypatch)
    monkeypatch.setitem(sys.modules, "korsbert_tokens", tokens)
    monkeypatch.delitem(sys.modules, "exporter.serving.triton.models.tokenizer", raising=False)
    from exporter.serving.triton.models import tokenizer

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "하나": 1, "둘": 2}, unk_token="[PAD]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "1").mkdir()
    words.save(str(tmp_path / "1" / "tokenizer.json"))
    settings = {"prompt": "", "prompts": "{}", "max_text_bytes": "1000", "sequence_buckets": ""}
    found = tokenizer.TritonPythonModel()
    config = {"parameters": {name: {"string_value": value} for name, value in settings.items()}}
    found.initialize({"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1"})
    return found


def request(text: str, send_failures: int = 0) -> Request:
    return Request(texts(text.encode()), send_failures=send_failures)


def ids(answer: Any) -> list[int]:
    """Return the token ids of the one sentence of an answer."""
    assert answer.error is None, answer.error
    found: list[int] = dict(answer.tensors)["input_ids"][0].tolist()
    return found


def test_a_response_that_cannot_be_sent_is_refused_and_costs_no_other_request(model: Any) -> None:
    narrow, failed, wide = executed(model, [request("둘"), request("하나", send_failures=1), request("하나 둘")])
    assert (ids(narrow), ids(wide)) == ([2], [1, 2])
    assert (failed.error, failed.error.code) == (f"RuntimeError: {Request.SEND_FAILURE}", failed.error.INTERNAL)


def test_a_response_that_cannot_be_made_is_refused_and_costs_no_other_request(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pad = tokens.TextTokenizer.pad

    def short_of_memory(self: tokens.TextTokenizer, rows: Any, width: int | None = None) -> Any:
        if rows == [[1]]:
            raise MemoryError("none left")
        return pad(self, rows, width)

    monkeypatch.setattr(tokens.TextTokenizer, "pad", short_of_memory)
    failed, wide = executed(model, [request("하나"), request("하나 둘")])
    assert (failed.error, ids(wide)) == ("MemoryError: none left", [1, 2])


def test_a_sender_that_sends_nothing_costs_no_other_request(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    mute, narrow, wide = request("하나", send_failures=9), request("둘"), request("하나 둘")
    model.execute([mute, narrow, wide])
    assert caplog.messages == [f"a request stays without an answer: RuntimeError: {Request.SEND_FAILURE}"]
    assert (mute.answer, ids(narrow.answer), ids(wide.answer)) == (None, [2], [1, 2])


@pytest.mark.parametrize("name", ["_send", "_refusal"])
def test_both_models_send_in_the_same_way(name: str) -> None:
    """Each file stands alone in a model repository, so each has a copy."""

    def function(file: str) -> str:
        parsed = ast.parse((Path(models_folder.__file__).parent / file).read_text(encoding="utf-8"))
        (found,) = (part for part in parsed.body if isinstance(part, ast.FunctionDef) and part.name == name)
        return ast.unparse(found)

    assert function("encoder.py") == function("tokenizer.py")
