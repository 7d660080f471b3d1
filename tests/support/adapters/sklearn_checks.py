"""KorsbertVectorizer in scikit-learn."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from korsbert.sklearn import KorsbertVectorizer
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import (
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_set_params,
)

import exporter
from tests.support.adapters import TEXTS

SENTENCES = [
    "버스가 늦게 왔다.",
    "지하철을 타고 회사에 갔다.",
    "기차표를 예매했다.",
    "점심에 김치찌개를 먹었다.",
    "빵을 구웠다.",
    "저녁은 비빔밥이다.",
]
LABELS = ["교통", "교통", "교통", "음식", "음식", "음식"]


def test_vectors_are_those_of_the_encoder(bundle: str, encoder: exporter.Encoder) -> None:
    wanted = encoder.encode(TEXTS)
    for given in (TEXTS, tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object), iter(TEXTS)):
        found = KorsbertVectorizer(bundle).transform(given)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(KorsbertVectorizer(Path(bundle)).fit_transform(TEXTS, range(len(TEXTS))), wanted)


@pytest.mark.parametrize("precision", ["float16", "int8", "ubinary"])
def test_options(bundle: str, encoder: exporter.Encoder, precision: Any) -> None:
    vectorizer = KorsbertVectorizer(bundle, truncate_dim=16, batch_size=2, precision=precision)
    found = vectorizer.transform(TEXTS)
    wanted = encoder.encode(TEXTS, batch_size=2, truncate_dim=16, precision=precision)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    columns = 2 if precision == "ubinary" else 16
    assert vectorizer.get_feature_names_out().tolist() == [f"korsbert{column}" for column in range(columns)]


def test_parameters_and_clones(bundle: str, encoder: exporter.Encoder) -> None:
    vectorizer = KorsbertVectorizer(bundle).fit(TEXTS)
    assert vectorizer.get_params() == {
        "bundle": bundle,
        "truncate_dim": None,
        "batch_size": 32,
        "precision": "float32",
    }
    copy = clone(vectorizer.set_params(truncate_dim=16))
    assert copy.get_params() == vectorizer.get_params()
    for one in (copy, vectorizer):
        np.testing.assert_array_equal(one.transform(TEXTS), encoder.encode(TEXTS, truncate_dim=16))


def test_another_bundle_is_opened(bundle: str, encoder: exporter.Encoder, prompted: str) -> None:
    vectorizer = KorsbertVectorizer(prompted).fit(TEXTS)
    np.testing.assert_array_equal(vectorizer.set_params(bundle=bundle).transform(TEXTS), encoder.encode(TEXTS))


def test_a_pickle_has_the_arguments_only(bundle: str) -> None:
    vectorizer = KorsbertVectorizer(bundle, truncate_dim=16).fit(TEXTS)
    pickled = pickle.dumps(vectorizer)
    again = pickle.loads(pickled)
    assert vars(again) == vectorizer.get_params()
    np.testing.assert_array_equal(again.transform(TEXTS), vectorizer.transform(TEXTS))


def test_an_open_bundle_stays_open(prompted: str, tmp_path: Path) -> None:
    mine = shutil.copytree(prompted, tmp_path / "bundle")
    vectorizer = KorsbertVectorizer(mine).fit(TEXTS)
    shutil.rmtree(mine)  # or another bundle in its place: what was fitted with these vectors must get them
    assert vectorizer.transform(TEXTS).shape == (len(TEXTS), vectorizer.get_feature_names_out().size)


def test_pipeline(bundle: str, encoder: exporter.Encoder) -> None:
    pipeline = make_pipeline(KorsbertVectorizer(bundle), KNeighborsClassifier(1, metric="cosine"))
    pipeline.fit(SENTENCES, LABELS)
    assert pipeline.predict(SENTENCES).tolist() == LABELS
    others = ["택시를 불렀다.", "라면을 끓였다."]
    cosines = encoder.similarity(encoder.encode(others), encoder.encode(SENTENCES))
    nearest = [LABELS[row] for row in cosines.argmax(axis=1)]
    assert pipeline.predict(others).tolist() == nearest
    for again in (clone(pipeline).fit(SENTENCES, LABELS), pickle.loads(pickle.dumps(pipeline))):
        assert again.predict(others).tolist() == nearest
    assert pipeline[:-1].get_feature_names_out().tolist()[:2] == ["korsbert0", "korsbert1"]


def test_grid_search(prompted: str) -> None:
    pipeline = make_pipeline(KorsbertVectorizer(prompted), KNeighborsClassifier(1))
    search = GridSearchCV(pipeline, {"korsbertvectorizer__truncate_dim": [8, None]}, cv=2, error_score="raise")
    search.fit(SENTENCES, LABELS)
    assert search.best_params_["korsbertvectorizer__truncate_dim"] in (8, None)


@pytest.mark.parametrize("check", [check_get_params_invariance, check_no_attributes_set_in_init, check_set_params])
def test_checks_of_scikit_learn(prompted: str, check: Any) -> None:
    """``check_estimator`` leaves out whatever does not take numbers, so these are named."""
    check("KorsbertVectorizer", KorsbertVectorizer(prompted))


def test_what_is_refused(prompted: str, tmp_path: Path) -> None:
    vectorizer = KorsbertVectorizer(prompted)
    for call in (vectorizer.fit, vectorizer.transform):
        with pytest.raises(ValueError, match="X is one string"):
            call("문장")
        with pytest.raises(ValueError, match="X has 2 dimensions"):
            call(np.array([TEXTS]))
        with pytest.raises(ValueError, match="X has no text"):
            call([])
    with pytest.raises(TypeError, match="sentence 1"):
        vectorizer.transform(["문장", None])  # type: ignore[list-item]
    with pytest.raises(exporter.BundleError, match="manifest"):
        KorsbertVectorizer(tmp_path).fit(TEXTS)
