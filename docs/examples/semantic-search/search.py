"""Print the sentences that are nearest to a question in meaning."""

from __future__ import annotations

import sys
from pathlib import Path

import korsbert
import numpy as np

SENTENCES = Path(__file__).with_name("sentences.txt")


def main(bundle: str, question: str, count: int = 3) -> None:
    """Print the ``count`` nearest sentences, each with its cosine."""
    sentences = SENTENCES.read_text(encoding="utf-8").splitlines()
    with korsbert.load(bundle) as encoder:
        vectors = encoder.encode(sentences, normalize_embeddings=True)  # (sentences, dimension)
        asked = encoder.encode(question, normalize_embeddings=True)  # (dimension,)
    cosines = vectors @ asked
    for row in np.argsort(-cosines)[:count]:
        print(f"{cosines[row]:.3f}  {sentences[row]}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
