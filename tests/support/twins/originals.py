"""What tells the published checkpoints from each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

SizeName = Literal["small", "full"]
Architecture = Literal["albert", "bert", "distilbert", "roberta"]


@dataclass(frozen=True)
class Size:
    """The numbers in which a small twin differs from a full one."""

    vocabulary: int
    layers: int
    hidden: int
    heads: int
    feed_forward: int
    embedding: int | None = None
    """ALBERT's factorised embedding width; ``None`` where embeddings have the hidden width."""


@dataclass(frozen=True)
class WordPiece:
    """A BERT tokenizer as its ``tokenizer_config.json`` describes it."""

    tokenizer_class: str = "BertTokenizer"
    special_tokens: tuple[str, ...] = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    """In the order of their ids, from 0."""
    do_lower_case: bool = False
    strip_accents: bool | None = None
    """``None`` strips accents exactly where it lower-cases, and then takes Hangul syllables apart into jamo."""
    has_tokenizer_json: bool = True
    sentence_tokens: bool = False
    """Whether ``bos_token`` and ``eos_token`` are set as well (to [CLS] and [SEP])."""
    length_limit: tuple[str, int] = ("model_max_length", 512)
    """The key and the value of the tokenizer's own limit, which ``max_seq_length`` overrides."""


@dataclass(frozen=True)
class Twin:
    """All that tells one checkpoint from the others."""

    checkpoint: str
    """The original's name on the hub."""
    architecture: Architecture
    small: Size
    full: Size
    pooling: Literal["cls", "mean"]
    max_seq_length: int
    do_lower_case: bool
    """The key of ``sentence_bert_config.json``. ``True`` lower-cases whatever the tokenizer's own setting is:
    sentence-transformers 6 puts a ``Lowercase`` before the tokenizer's normalizer, version 2 lower-cased the text.
    ``False`` changes nothing: a tokenizer that lower-cases by itself goes on doing so."""
    tokenizer: WordPiece
    layer_norm_eps: float = 1e-12
    positions: int = 512
    """Rows of the position table; more than ``max_seq_length`` in some, where reading past the limit goes unnoticed."""
    token_types: int = 2
    layout: Literal["sentence-transformers", "transformers"] = "sentence-transformers"
    """Whose folder: that of transformers has no ``modules.json``, and does not state the pooling."""


_SMALL = Size(vocabulary=2_000, layers=3, hidden=64, heads=4, feed_forward=128)
_KLUE_BASE = Size(vocabulary=32_000, layers=12, hidden=768, heads=12, feed_forward=3_072)
KLUE_ROBERTA = WordPiece(special_tokens=("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"), sentence_tokens=True)

TWINS: Mapping[str, Twin] = MappingProxyType(
    {
        "albert-small": Twin(
            checkpoint="bongsoo/albert-small-kor-sbert-v1",
            architecture="albert",
            small=Size(vocabulary=2_000, layers=3, hidden=64, heads=4, feed_forward=128, embedding=32),
            full=Size(vocabulary=52_000, layers=6, hidden=768, heads=12, feed_forward=3_072, embedding=128),
            pooling="cls",
            max_seq_length=256,
            do_lower_case=True,
            tokenizer=WordPiece(do_lower_case=True, strip_accents=False),
        ),
        "moco-distilbert": Twin(
            checkpoint="bongsoo/moco-sentencedistilbertV2.1",
            architecture="distilbert",
            small=Size(vocabulary=2_000, layers=2, hidden=64, heads=4, feed_forward=128),
            full=Size(vocabulary=152_537, layers=6, hidden=768, heads=12, feed_forward=3_072),
            pooling="mean",
            max_seq_length=256,
            do_lower_case=False,
            tokenizer=WordPiece(
                tokenizer_class="DistilBertTokenizer",
                strip_accents=False,
                has_tokenizer_json=False,
                length_limit=("max_len", 128),
            ),
            token_types=0,
        ),
        "ko-sbert-sts": Twin(
            checkpoint="jhgan/ko-sbert-sts",
            architecture="bert",
            small=_SMALL,
            full=_KLUE_BASE,
            pooling="mean",
            max_seq_length=512,
            do_lower_case=False,
            tokenizer=WordPiece(),
        ),
        "klue-sroberta": Twin(
            checkpoint="bespin-global/klue-sroberta-base-continue-learning-by-mnr",
            architecture="roberta",
            small=_SMALL,
            full=_KLUE_BASE,
            pooling="mean",
            max_seq_length=512,
            do_lower_case=True,
            tokenizer=KLUE_ROBERTA,
            layer_norm_eps=1e-5,
            positions=514,
            token_types=1,
        ),
        "ko-sbert-multitask": Twin(
            checkpoint="jhgan/ko-sbert-multitask",
            architecture="bert",
            small=_SMALL,
            full=_KLUE_BASE,
            pooling="mean",
            max_seq_length=128,
            do_lower_case=False,
            tokenizer=WordPiece(),
        ),
        "ko-sroberta-multitask": Twin(
            checkpoint="jhgan/ko-sroberta-multitask",
            architecture="roberta",
            small=_SMALL,
            full=_KLUE_BASE,
            pooling="mean",
            max_seq_length=128,
            do_lower_case=False,
            tokenizer=KLUE_ROBERTA,
            layer_norm_eps=1e-5,
            positions=514,
            token_types=1,
        ),
        "kosimcse-roberta-multitask": Twin(
            checkpoint="BM-K/KoSimCSE-roberta-multitask",
            architecture="roberta",
            small=_SMALL,
            full=_KLUE_BASE,
            pooling="cls",
            max_seq_length=512,
            do_lower_case=False,
            tokenizer=KLUE_ROBERTA,
            layer_norm_eps=1e-5,
            positions=514,
            token_types=1,
            layout="transformers",
        ),
    }
)
"""By the name of their recipe."""

MEASURED = ("albert-small", "moco-distilbert", "ko-sbert-sts", "klue-sroberta", "ko-sbert-multitask")
"""The twins of ``tests/FAULTS.md``, of the benchmarks and of the tests that take minutes for each model."""
