"""Export the demo checkpoint in fp16, open the bundle, and encode two sentences."""

from __future__ import annotations

import sys

import korsbert

SENTENCES = ["택배는 보통 이틀 안에 도착합니다.", "주문하신 물건은 모레까지 받으실 수 있습니다."]


def main(out: str = "artifacts") -> None:
    """Export into ``out``, and encode with the new bundle."""
    bundle = korsbert.export("demo", precision="fp16", out=out, force=True)
    print(f"{bundle.folder}: passed its gate at min cosine {bundle.manifest.validation.min_cosine:.8f}")

    with korsbert.load(bundle.folder) as encoder:
        vectors = encoder.encode(SENTENCES, normalize_embeddings=True)
    print(f"{len(vectors)} vectors of {encoder.dimension} numbers, {vectors.dtype}")
    print(f"cosine of the two sentences: {vectors[0] @ vectors[1]:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
