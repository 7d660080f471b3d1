"""Prompts on Triton without a server: which models there are, their names, and what a request may ask for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from exporter.bundle import Bundle
from exporter.errors import InputError
from exporter.runtime import tokens
from exporter.serving.triton import repository
from exporter.serving.triton.config import encoder_config, ensemble_config, tokenizer_config
from exporter.serving.triton.facts import Options, TextModel, served, text_models
from tests.support.python_backend import Request, executed, install, texts
from tests.support.served_bundles import bundle_of

PYTHON = Options(runtime="python")


def prompted(bundle: Bundle, prompt: str = "", **prompts: str) -> Bundle:
    encoder = bundle.manifest.encoder.model_copy(update={"prompt": prompt, "prompts": prompts})
    bundle.manifest = bundle.manifest.model_copy(update={"encoder": encoder})
    return bundle


@pytest.mark.parametrize(
    ("prompt", "prompts", "wanted"),
    [
        ("", {}, []),
        ("", {"query": "", "document": ""}, []),
        ("a ", {"query": "a ", "passage": "a ", "other": "b "}, []),
        ("x ", {"": "y "}, []),
        ("", {"query": "q "}, [("query", "m_query_tokenizer", "q "), ("document", "m_tokenizer", "")]),
        ("", {"passage": "d "}, [("query", "m_tokenizer", ""), ("document", "m_document_tokenizer", "d ")]),
        (
            "x ",
            {"query": "q ", "document": "q "},
            [("query", "m_query_tokenizer", "q "), ("document", "m_query_tokenizer", "q ")],
        ),
    ],
)
def test_models_of_queries_and_documents(prompt: str, prompts: dict[str, str], wanted: list[Any]) -> None:
    facts = prompted(bundle_of("onnxruntime"), prompt, **prompts).manifest.encoder
    first, *others = text_models("m", facts)
    assert first == TextModel("text", "m_text", "m_tokenizer", prompt)
    assert [(one.kind, one.tokenizer, one.prompt) for one in others] == wanted
    assert [one.ensemble for one in others] == [f"m_{kind}" for kind, *_ in wanted]


@pytest.mark.parametrize(("prompts", "ensemble"), [({"query": ""}, True), ({"query": "q "}, False)])
def test_the_cache_stands_where_no_prompt_is_lost(prompts: dict[str, str], ensemble: bool) -> None:
    options = Options(runtime="python", response_cache=True)
    one = served(prompted(bundle_of("onnxruntime"), **prompts), options)
    assert ensemble_config(one, options, 1, one.texts[0]).response_cache.enable is ensemble
    assert encoder_config(one, options).response_cache.enable is not ensemble
    assert not tokenizer_config(one, options, one.texts[0]).response_cache.enable


def test_vectors_on_a_gpu_cannot_be_cached_by_their_token_ids() -> None:
    options = Options(gpus=(0,), response_cache=True)
    assert served(prompted(bundle_of("onnxruntime"), query=""), options).one_prompt
    with pytest.raises(InputError, match="the model has several prompts") as caught:
        served(prompted(bundle_of("onnxruntime"), query="q "), options)
    assert caught.value.next_step == "leave out `response_cache`, or use `runtime=python`"


class TestNames:
    def test_two_bundles_of_one_model(self, tmp_path: Path) -> None:
        first = prompted(bundle_of("onnxruntime"), query="q ")
        other = bundle_of("onnxruntime")
        recipe = other.manifest.recipe.model_copy(update={"name": "demo_query"})
        other.manifest = other.manifest.model_copy(update={"recipe": recipe})
        with pytest.raises(InputError, match="two bundles have the model demo_query"):
            repository.ship([first, other], tmp_path / "models", PYTHON)
        assert not (tmp_path / "models").exists()

    @pytest.mark.parametrize("name", ["demo_query", "demo_document"])
    @pytest.mark.parametrize("text", ["", 'name: "x"', 'platform: "ensemble"'])
    def test_a_model_of_someone_else_is_no_old_version(self, tmp_path: Path, name: str, text: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(text, encoding="utf-8")
        assert not repository._is_ensemble_of(tmp_path / name, "demo")


class TestRequests:
    """``models/tokenizer.py`` with the backend's own module in Python."""

    @pytest.fixture
    def model(self, monkeypatch: pytest.MonkeyPatch, demo_fp32: Path, tmp_path: Path) -> Any:
        install(monkeypatch)
        monkeypatch.setitem(sys.modules, "korsbert_tokens", tokens)
        monkeypatch.delitem(sys.modules, "exporter.serving.triton.models.tokenizer", raising=False)
        from exporter.serving.triton.models import tokenizer

        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "tokenizer.json").write_bytes((demo_fp32 / "tokenizer.json").read_bytes())
        settings = {
            "prompt": "기본 ",
            "prompts": json.dumps({"query": "질문: ", 'a"b': "인용 "}),
            "max_text_bytes": "1000",
            "sequence_buckets": "",
        }
        found = tokenizer.TritonPythonModel()
        config = {"parameters": {name: {"string_value": value} for name, value in settings.items()}}
        found.initialize({"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1"})
        self.plain = Tokenizer.from_file(str(demo_fp32 / "tokenizer.json"))
        return found

    @pytest.mark.parametrize(
        ("parameters", "prompt"),
        [
            ("{}", "기본 "),
            ("", "기본 "),
            ('{"prompt_name": null}', "기본 "),
            ('{"prompt_name": "query", "other": 7}', "질문: "),
            (json.dumps({"prompt_name": 'a"b'}), "인용 "),
        ],
    )
    def test_a_prompt_is_put_before_the_text(self, model: Any, parameters: str, prompt: str) -> None:
        (answer,) = executed(model, [Request(texts("가나다".encode()), parameters)])
        assert answer.tensors[0][1].tolist() == [self.plain.encode(f"{prompt}가나다").ids]

    @pytest.mark.parametrize(
        ("parameters", "told"),
        [
            ('{"prompt_name": "title"}', "the model has no prompt 'title'; its prompts are 'query', 'a\"b'"),
            ('{"prompt_name": 7}', "the model has no prompt '7'; "),
            ('{"prompt_name": ["query"]}', "the model has no prompt \"['query']\"; "),
            (json.dumps({"prompt_name": "x" * 10_000}), f"the model has no prompt '{'x' * 100}'; "),
            ("{", "the parameters of the request are not JSON in UTF-8"),
        ],
    )
    def test_what_cannot_be_read_is_an_error_of_that_request_alone(
        self, model: Any, parameters: str, told: str
    ) -> None:
        bad, good = Request(texts("가".encode()), parameters), Request(texts("가".encode()))
        refused, answered = executed(model, [bad, good])
        assert refused.error.startswith(told)
        assert answered.error is None
