"""A model with prompts on a real server: the parameter prompt_name, and the ensembles of queries and documents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import exporter
from exporter.bundle import Bundle
from exporter.errors import InputError, ServerError
from exporter.golden import Golden, read_golden
from exporter.serving.triton import Options, ship
from exporter.serving.triton.address import Protocol
from exporter.serving.triton.config import FILE, PROMPTS, read_config, to_text
from exporter.serving.triton.deployment import deployed
from exporter.serving.triton.lint import check
from exporter.serving.triton.remote import RemoteEncoder
from exporter.serving.triton.verify import Verification, verify
from tests.support.triton import TritonServer, running

PROMPTS_OF_TWIN = {"query": "질문: ", "document": "글: ", "요약": "요약하면 "}
TEXTS = ["오늘 날씨가 어때요?", "가", "부산에서 서울까지 기차로 얼마나 걸리는지 알고 싶습니다."]
PYTHON = Options(runtime="python", response_cache=True)


@pytest.fixture(scope="module")
def checkpoint(twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(twin, tmp_path_factory.mktemp("prompted") / "prompted"))
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps({**settings, "prompts": PROMPTS_OF_TWIN, "default_prompt_name": "document"}), encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exporter.export(str(checkpoint), out=tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def repository(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "models"
    (shipped,) = ship([bundle], folder, PYTHON, name="twin")
    assert shipped.ensembles == ("twin_text", "twin_query", "twin_document")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with running(repository, tmp_path_factory.mktemp("triton"), "--cache-config=local,size=16777216") as server:
        yield server


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> Iterator[exporter.Encoder]:
    with exporter.load(bundle.folder) as encoder:
        yield encoder


def remote(server: TritonServer, model: str, protocol: Protocol) -> RemoteEncoder:
    return RemoteEncoder(protocol, server.http if protocol == "http" else server.grpc, model)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
class TestVectors:
    @pytest.mark.parametrize("name", [None, "query", "document", "요약"])
    def test_a_request_names_its_prompt(
        self, server: TritonServer, encoder: exporter.Encoder, protocol: Protocol, name: str | None
    ) -> None:
        with remote(server, "twin_text", protocol) as asked:
            found = asked.encode(TEXTS, name)
        np.testing.assert_allclose(found, encoder.encode(TEXTS, name), rtol=0, atol=2e-5)

    def test_queries_and_documents_have_a_model_each(
        self, server: TritonServer, encoder: exporter.Encoder, protocol: Protocol
    ) -> None:
        with remote(server, "twin_query", protocol) as asked:
            np.testing.assert_allclose(asked.encode(TEXTS), encoder.encode_query(TEXTS), rtol=0, atol=2e-5)
            summary = encoder.encode_query(TEXTS, "요약")
            np.testing.assert_allclose(asked.encode(TEXTS, "요약"), summary, rtol=0, atol=2e-5)
        with remote(server, "twin_document", protocol) as asked:
            np.testing.assert_allclose(asked.encode(TEXTS), encoder.encode_document(TEXTS), rtol=0, atol=2e-5)

    def test_a_prompt_that_there_is_not_is_refused(self, server: TritonServer, protocol: Protocol) -> None:
        with remote(server, "twin_text", protocol) as asked:
            with pytest.raises(ServerError, match=r"the model has no prompt 'title'; its prompts are 'query', "):
                asked.encode(["가"], "title")
            assert len(asked.encode(["가"])) == 1

    def test_the_cache_tells_prompts_apart(
        self, server: TritonServer, encoder: exporter.Encoder, protocol: Protocol
    ) -> None:
        with remote(server, "twin_text", protocol) as asked:
            for name in ("query", None, "요약", "query", None, "요약"):
                found = asked.encode_batch(["같은 글"], name)
                np.testing.assert_allclose(found, encoder.encode(["같은 글"], name), rtol=0, atol=2e-5)


def test_verify_judges_every_prompt(server: TritonServer, bundle: Bundle, checkpoint: Path) -> None:
    result = verify(bundle, server.http, grpc=server.grpc, model="twin", checkpoint=checkpoint, requests=64, clients=4)
    assert result.passed, result
    for report in result.reports:
        (judged,) = (each for each in report.checks if each.name == "prompts")
        assert judged.passed
        assert judged.coverage.startswith("prompt 'query', prompt '요약', encode_query, encode_document on ")


def test_verify_with_a_golden_file(server: TritonServer, bundle: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    exporter.write_golden(checkpoint, tmp_path / "twin.golden")
    golden = read_golden(tmp_path / "twin.golden")

    def verified(golden: Golden) -> Verification:
        return verify(bundle, server.http, grpc=server.grpc, model="twin", golden=golden, requests=8, clients=2)

    result = verified(golden)
    assert result.passed, result
    for report in result.reports:
        assert report.golden == golden.facts.seal
        assert [check.name for check in report.checks if check.passed][:2] == ["facts", "prompts"]
    assert golden.prompts is not None
    swapped = replace(golden.prompts, query=golden.prompts.document, document=golden.prompts.query)
    for other, told in (
        (replace(golden, prompts=swapped), "prompts: encode_query: min cosine"),
        (replace(golden, vectors=golden.vectors[::-1]), "rows are out of order"),
    ):
        assert all(told in report.failure() for report in verified(other).reports)


def test_documents_with_the_default_prompt_share_its_tokenizer(repository: Path) -> None:
    assert {path.name for path in repository.iterdir() if path.is_dir()} == {
        *("twin", "twin_text", "twin_query", "twin_document", "twin_tokenizer", "twin_query_tokenizer")
    }
    (model,) = deployed(repository)
    assert [ensemble.name for ensemble in model.ensembles] == ["twin_text", "twin_document", "twin_query"]
    assert check(repository) == []


@pytest.mark.parametrize(("parameter", "value"), [("prompt", "글: "), (PROMPTS, '{"query": ""}'), (PROMPTS, "[")])
def test_a_tokenizer_with_other_prompts_is_found(repository: Path, tmp_path: Path, parameter: str, value: str) -> None:
    copy = Path(shutil.copytree(repository, tmp_path / "models"))
    path = copy / "twin_query_tokenizer" / FILE
    config = read_config(path)
    config.parameters[parameter].string_value = value
    path.write_text(to_text(config), encoding="utf-8")
    (finding,) = check(copy)
    assert (finding.file, finding.field) == (path, f"parameters[{parameter}]")


def test_a_server_that_confuses_prompts_does_not_pass(
    repository: Path, bundle: Bundle, checkpoint: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(repository, tmp_path / "models"))
    path = copy / "twin_query_tokenizer" / FILE
    config = read_config(path)
    config.parameters["prompt"].string_value = "글: "
    path.write_text(to_text(config), encoding="utf-8")
    with running(copy, tmp_path / "triton", "--cache-config=local,size=16777216") as server:
        result = verify(
            bundle, server.http, grpc=server.grpc, model="twin", checkpoint=checkpoint, requests=8, clients=2
        )
    assert not result.passed
    for report in result.reports:
        assert "prompts: encode_query: min cosine" in report.failure()


def test_a_version_without_prompts_does_not_leave_old_ones_behind(
    repository: Path, bundle: Bundle, twin_bundle: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(repository, tmp_path / "models"))
    with pytest.raises(InputError, match="twin_query would go on with an old version"):
        ship([Bundle.open(twin_bundle)], copy, PYTHON, name="twin")
    (again,) = ship([bundle], copy, PYTHON, name="twin")
    assert again.version == 2
    assert check(copy) == []


def test_an_encoder_does_not_take_the_place_of_an_ensemble(repository: Path, bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(repository, tmp_path / "models"))
    with pytest.raises(InputError, match=r"twin_query is the ensemble of another bundle, so it is not replaced"):
        ship([bundle], copy, PYTHON, name="twin_query")
