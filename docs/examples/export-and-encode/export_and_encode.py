"""Export the demo checkpoint in fp16, open the bundle, and encode two sentences."""

from __future__ import annotations

import sys

import korsbert

SENTENCES = ["배송이 언제 되나요?", "상품은 언제 배송됩니까?"]


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
