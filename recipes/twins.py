"""Twins: stand-ins for the five published checkpoints, for machines that cannot reach the hub.

A twin has its original's architecture, kind of tokenizer, folder layout and file formats (sentence-transformers 2.2 and
transformers 4.21: ``pytorch_model.bin``, the old ``1_Pooling/config.json`` keys, ``vocab.txt``), and seeded weights
that were never trained. A vector of a twin means nothing; a twin is there to show that an export computes the same
vector as PyTorch does. For that its weights must let faults be seen, which a plain random initialisation does not: with
it all sentences land on nearly one vector, and an export that ignores the padding mask still scores a cosine of 0.99.
``_state_dict`` says how that is avoided, and ``tests/unit/test_twins.py`` measures it.

    python -m recipes.twins ko-sbert-sts twins/ko-sbert-sts --full

Sizes, pooling, limits and lower-casing are the published ones. What the model cards leave out (activation, epsilons,
dropout, details of the tokenizers) is that of the base models' families or transformers' default, not a known fact.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import string
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SizeName = Literal["small", "full"]
Architecture = Literal["albert", "bert", "distilbert", "roberta"]

_ROOT = Path(__file__).resolve().parents[1]
CORPUS = (_ROOT / "exporter" / "validator" / "probes.jsonl", _ROOT / "exporter" / "calibration.jsonl")
"""The sentences that vocabularies are counted from: JSON lines with a ``text`` key."""


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
    """All that tells one of the five checkpoints from the others."""

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


_SMALL = Size(vocabulary=2_000, layers=3, hidden=64, heads=4, feed_forward=128)
_KLUE_BASE = Size(vocabulary=32_000, layers=12, hidden=768, heads=12, feed_forward=3_072)

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
            tokenizer=WordPiece(
                special_tokens=("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"),
                sentence_tokens=True,
            ),
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
    }
)
"""The five, by the name of their recipe."""


def build_twin(name: str, folder: Path, size: SizeName = "small", seed: int = 0) -> Path:
    """Write the twin of one checkpoint, ready for ``SentenceTransformer(str(folder))``.

    The same arguments and the same ``CORPUS`` give the same files.

    Args:
        name: A key of ``TWINS``.
        folder: Where to write; made if missing, files of the same names are overwritten.
        size: ``small`` for tests (about 1 MB), ``full`` for the original's sizes (up to 650 MB, a BERT base 440 MB).
        seed: Of the weights; the vocabulary does not depend on it.

    Returns:
        ``folder``.

    Raises:
        KeyError: There is no twin of that name.
    """
    if name not in TWINS:
        raise KeyError(f"no twin is called {name!r}; there are {', '.join(TWINS)}")
    twin = TWINS[name]
    sizes: Size = {"small": twin.small, "full": twin.full}[size]
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)

    _write_json(folder / "modules.json", _MODULES)
    _write_json(folder / "1_Pooling" / "config.json", _pooling_config(twin, sizes))
    _write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": twin.max_seq_length, "do_lower_case": twin.do_lower_case},
    )
    _write_json(folder / "config_sentence_transformers.json", {"__version__": _VERSIONS})
    _write_json(folder / "config.json", _transformer_config(twin, sizes))
    (folder / "README.md").write_text(_CARD.format(name=name, twin=twin, seed=seed), encoding="utf-8")

    _write_tokenizer(folder, twin.tokenizer, vocabulary(twin.tokenizer, sizes.vocabulary, corpus_texts()))

    # The name takes part in the seed because two of the five are the same in all but their weights.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name}/{size}/{seed}".encode()))
    torch.save(_state_dict(twin, sizes, generator), folder / "pytorch_model.bin")
    return folder


# --- the folder ------------------------------------------------------------------------------------------------------

_VERSIONS = {"sentence_transformers": "2.2.0", "transformers": "4.21.2", "pytorch": "1.10.1"}

_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]

_CARD = """\
---
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- feature-extraction
- sentence-similarity
- transformers
---

# A twin of {twin.checkpoint}

Same architecture, kind of tokenizer and files; **untrained weights** (seed {seed}). Its vectors mean nothing: it is for
testing exports. Made by `python -m recipes.twins {name} FOLDER` of korsbert.
"""


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _pooling_config(twin: Twin, size: Size) -> dict[str, object]:
    """Return ``1_Pooling/config.json`` with the keys of sentence-transformers before 3.0."""
    return {
        "word_embedding_dimension": size.hidden,
        "pooling_mode_cls_token": twin.pooling == "cls",
        "pooling_mode_mean_tokens": twin.pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }


def _transformer_config(twin: Twin, size: Size) -> dict[str, object]:
    """Return ``config.json`` as transformers 4.21 wrote it for this architecture."""
    common: dict[str, object] = {
        "architectures": [_NAMES[twin.architecture].model_class],
        "initializer_range": 0.02,
        "max_position_embeddings": twin.positions,
        "model_type": twin.architecture,
        "pad_token_id": twin.tokenizer.special_tokens.index("[PAD]"),
        "torch_dtype": "float32",
        "transformers_version": _VERSIONS["transformers"],
        "vocab_size": size.vocabulary,
    }
    if twin.architecture == "distilbert":
        # This one is printed on its card, with names of its own for most things.
        own: dict[str, object] = {
            "activation": "gelu",
            "attention_dropout": 0.1,
            "dim": size.hidden,
            "dropout": 0.1,
            "hidden_dim": size.feed_forward,
            "n_heads": size.heads,
            "n_layers": size.layers,
            "output_past": True,
            "qa_dropout": 0.1,
            "seq_classif_dropout": 0.2,
            "sinusoidal_pos_embds": False,
            "tie_weights_": True,
        }
        return dict(sorted((common | own).items()))
    dropout = 0 if twin.architecture == "albert" else 0.1
    own = {
        "attention_probs_dropout_prob": dropout,
        "classifier_dropout": None,
        "hidden_act": "gelu",
        "hidden_dropout_prob": dropout,
        "hidden_size": size.hidden,
        "intermediate_size": size.feed_forward,
        "layer_norm_eps": twin.layer_norm_eps,
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "position_embedding_type": "absolute",
        "type_vocab_size": twin.token_types,
        "use_cache": True,
    }
    if twin.architecture == "albert":
        del own["classifier_dropout"], own["use_cache"]
        own |= {
            "bos_token_id": 2,
            "classifier_dropout_prob": 0.1,
            "down_scale_factor": 1,
            "embedding_size": size.embedding,
            "eos_token_id": 3,
            "gap_size": 0,
            "inner_group_num": 1,
            "net_structure_type": 0,
            "num_hidden_groups": 1,
            "num_memory_blocks": 0,
        }
    if twin.architecture == "roberta":
        own |= {
            "bos_token_id": 0,
            "eos_token_id": 2,
            "gradient_checkpointing": False,
            "tokenizer_class": "BertTokenizer",
        }
    return dict(sorted((common | own).items()))


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def corpus_texts() -> list[str]:
    """Return the sentences of ``CORPUS`` in file order; a file that is not there gives none."""
    return [
        json.loads(line)["text"]
        for path in CORPUS
        if path.exists()
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]


def vocabulary(kind: WordPiece, size: int, texts: Iterable[str]) -> list[str]:
    """Return a WordPiece vocabulary of exactly ``size`` distinct entries; the index of an entry is its id.

    Counted rather than trained, with ties broken by the text itself, so that equal sentences give equal files. In
    this order: the special tokens; printable ASCII; the characters of ``texts`` by frequency and the rest of the 2,350
    syllables of KS X 1001 (nearly all that Korean text uses), up to three fifths of ``size``; then beginnings and ends
    of words that occur at least twice, those that save most tokens first. ``[unusedN]`` fills up what is left, as it
    does in the KLUE vocabularies.
    """
    normalizer = _normalizer(kind)
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)))

    characters: Counter[str] = Counter()
    pieces: Counter[str] = Counter()
    for word, count in words.items():
        characters[word[0]] += count
        for character in word[1:]:
            characters[f"##{character}"] += count
        for cut in range(1, len(word)):
            pieces[word[: cut + 1]] += count
            if cut < len(word) - 1:
                pieces[f"##{word[cut:]}"] += count

    letters = string.digits + string.ascii_lowercase + ("" if kind.do_lower_case else string.ascii_uppercase)
    ascii_entries = [*string.punctuation, *letters, *(f"##{letter}" for letter in letters)]
    syllables = [bytes((lead, trail)).decode("euc_kr") for lead in range(0xB0, 0xC9) for trail in range(0xA1, 0xFF)]
    ranked_characters = itertools.chain(
        sorted(characters, key=lambda entry: (-characters[entry], entry)),
        syllables,
        (f"##{syllable}" for syllable in syllables),
    )
    ranked_pieces = sorted(
        (piece for piece, count in pieces.items() if count > 1),
        key=lambda piece: (-pieces[piece] * (len(piece.removeprefix("##")) - 1), piece),
    )
    # A dict keeps the first of each entry and the order.
    entries = dict.fromkeys([*kind.special_tokens, *ascii_entries])
    for entry in ranked_characters:
        if len(entries) >= size * 3 // 5:
            break
        entries[entry] = None
    entries |= dict.fromkeys(ranked_pieces)
    entries |= dict.fromkeys(f"[unused{index}]" for index in range(size))
    return list(entries)[:size]


def _normalizer(kind: WordPiece) -> normalizers.Normalizer:
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=kind.strip_accents,
        lowercase=kind.do_lower_case,
    )


def _write_tokenizer(folder: Path, kind: WordPiece, entries: list[str]) -> None:
    """Write ``vocab.txt``, ``tokenizer_config.json``, ``special_tokens_map.json`` and, if fast, ``tokenizer.json``."""
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    named = {f"{token[1:-1].lower()}_token": token for token in ("[CLS]", "[MASK]", "[PAD]", "[SEP]", "[UNK]")}
    if kind.sentence_tokens:
        named |= {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    _write_json(folder / "special_tokens_map.json", named)
    settings: dict[str, object] = {
        "do_basic_tokenize": True,
        "do_lower_case": kind.do_lower_case,
        "never_split": None,
        "strip_accents": kind.strip_accents,
        "tokenize_chinese_chars": True,
        "tokenizer_class": kind.tokenizer_class,
    }
    _write_json(folder / "tokenizer_config.json", dict(sorted((settings | named | dict([kind.length_limit])).items())))
    if kind.has_tokenizer_json:
        tokenizer = Tokenizer(models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token="[UNK]"))
        tokenizer.normalizer = _normalizer(kind)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(prefix="##")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[(token, entries.index(token)) for token in ("[CLS]", "[SEP]")],
        )
        tokenizer.add_special_tokens(list(kind.special_tokens))
        tokenizer.save(str(folder / "tokenizer.json"))


# --- the weights -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Names:
    """What an architecture calls its parameters (without ``.weight`` and ``.bias``) in a transformers 4.21 file."""

    model_class: str
    layer: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    feed_forward: str
    feed_forward_output: str
    output_norm: str
    pooler: str | None
    has_position_ids: bool = True
    """Whether the ``embeddings.position_ids`` buffer was saved, as all did but DistilBERT."""


_BERT_NAMES = _Names(
    model_class="BertModel",
    layer="encoder.layer.{}.",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    feed_forward="intermediate.dense",
    feed_forward_output="output.dense",
    output_norm="output.LayerNorm",
    pooler="pooler.dense",
)

_NAMES: Mapping[Architecture, _Names] = MappingProxyType(
    {
        "albert": _Names(
            model_class="AlbertModel",
            layer="encoder.albert_layer_groups.{}.albert_layers.0.",
            query="attention.query",
            key="attention.key",
            value="attention.value",
            attention_output="attention.dense",
            attention_norm="attention.LayerNorm",
            feed_forward="ffn",
            feed_forward_output="ffn_output",
            output_norm="full_layer_layer_norm",
            pooler="pooler",
        ),
        "bert": _BERT_NAMES,
        "distilbert": _Names(
            model_class="DistilBertModel",
            layer="transformer.layer.{}.",
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            attention_output="attention.out_lin",
            attention_norm="sa_layer_norm",
            feed_forward="ffn.lin1",
            feed_forward_output="ffn.lin2",
            output_norm="output_layer_norm",
            pooler=None,
            has_position_ids=False,
        ),
        "roberta": replace(_BERT_NAMES, model_class="RobertaModel"),
    }
)


_WORD_STD = 0.045
"""Standard deviation of a word embedding's entries, as in trained BERTs: small enough to feel LayerNorm's epsilon."""
_POSITION_SHARE = 0.2
"""Size of a position row relative to a word row. All sentences share positions, so this is kept below one."""
_QUERY_KEY_GAIN = 1.25
"""Standard deviation of a query or key entry. Logits then spread by about 1.5: attention is far from uniform, and not
so sharp that BF16's rounding of a logit decides where it looks."""


class _Draw:
    """Random parts of a network, all from one generator and all in float32."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator)

    def linear(self, outputs: int, inputs: int, gain: float) -> torch.Tensor:
        """Return an (outputs, inputs) matrix that makes inputs of unit variance into outputs of variance ``gain**2``.

        Rows differ in size, as trained ones do: quantization per tensor then costs more than quantization per channel.
        """
        return self.normal(outputs, inputs) * torch.exp(0.2 * self.normal(outputs, 1)) * (gain / math.sqrt(inputs))

    def channels(self, width: int) -> torch.Tensor:
        """Return the indices of a few outlier channels, one in 256 and at least one."""
        return torch.randperm(width, generator=self._generator)[: max(1, width // 256)]

    def outlier_gains(self, count: int) -> torch.Tensor:
        """Return (count,) gains between 2 and 4, what trained BERTs show in a few channels."""
        return 2 + 2 * torch.rand(count, generator=self._generator)


@dataclass
class _Norm:
    """A LayerNorm: ``gain * normalised + bias``, both (width,)."""

    gain: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def drawn(cls, draw: _Draw, width: int) -> _Norm:
        return cls(gain=torch.exp(0.15 * draw.normal(width)), bias=0.05 * draw.normal(width))

    @property
    def root_mean_square(self) -> float:
        """Size of an output entry, without the bias."""
        return float(self.gain.square().mean().sqrt())


@dataclass(frozen=True)
class _Steps:
    """How far one sublayer moves its input, relative to the input's size."""

    attention: float
    feed_forward: float

    @classmethod
    def chosen(cls, pooling: Literal["cls", "mean"], layers: int) -> _Steps:
        """Return the steps of a stack ``layers`` deep: smaller ones in deeper stacks.

        Each sublayer then matters (skipping one shows) and rounding errors still do not grow on their way up. Where
        [CLS] is the sentence vector, all it knows of the sentence came by attention, which so gets longer steps.
        """
        attention = 2.4 if pooling == "cls" else 1.2
        return cls(attention=attention * (3 / layers) ** 0.4, feed_forward=0.5 * (3 / layers) ** 0.25)


def _mean_gelu(mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Return E[GELU(x)] for normal x, elementwise: m Phi(m / s) + (v / s) phi(m / s) with s = sqrt(1 + v).

    From E[x Phi(x)], by Stein's lemma and E[Phi(x)] = Phi(m / s).
    """
    scale = torch.sqrt(1 + variance)
    ratio = mean / scale
    cumulative: torch.Tensor = torch.special.ndtr(ratio)
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    return mean * cumulative + variance / scale * density


def _state_dict(twin: Twin, size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return a state dict under the names of transformers 4.21: float32, and int64 for ``position_ids``.

    Sentences are kept apart by taking away what all of them would share. In an untrained network that is nearly all:
    whatever is equal at every token survives the mean over tokens, while what tells them apart shrinks with the square
    root of their number. So

    * the bias of each sublayer's last linear cancels the mean of what it adds, GELU's positive mean above all;
    * [CLS] and [SEP], which every sentence has, are nearly opposite vectors;
    * the first token type, which every token has, is small (the second is not: confusing them shows);
    * where [CLS] is the sentence vector, little of its own embedding passes ALBERT's mapping to the hidden width, so
      that it consists of what it attends to.
    """
    names = _NAMES[twin.architecture]
    draw = _Draw(generator)
    state: dict[str, torch.Tensor] = {}
    if names.has_position_ids:
        state["embeddings.position_ids"] = torch.arange(twin.positions).unsqueeze(0)

    cls_row = _embeddings(twin, size, draw, state)
    norm = _Norm(state["embeddings.LayerNorm.weight"], state["embeddings.LayerNorm.bias"])
    if size.embedding is not None:
        mapping = draw.linear(size.hidden, size.embedding, 1 / norm.root_mean_square)
        direction = torch.nn.functional.normalize(
            norm.gain * torch.nn.functional.layer_norm(cls_row, cls_row.shape), dim=0
        )
        mapping -= 0.8 * torch.outer(mapping @ direction, direction)
        state["encoder.embedding_hidden_mapping_in.weight"] = mapping
        state["encoder.embedding_hidden_mapping_in.bias"] = 0.02 * draw.normal(size.hidden) - mapping @ norm.bias

    # ALBERT stores one layer and uses it ``size.layers`` times; the steps are those of the depth it is used at.
    steps = _Steps.chosen(twin.pooling, size.layers)
    stored_layers = 1 if twin.architecture == "albert" else size.layers
    # An outlier channel of the norm inside a layer is undone by the norm at its end, or it would grow with each layer
    # until it is all there is; after the last layer it may stay.
    outliers = draw.channels(size.hidden)
    for layer in range(stored_layers):
        inner, outer = _Norm.drawn(draw, size.hidden), _Norm.drawn(draw, size.hidden)
        gains = draw.outlier_gains(len(outliers))
        inner.gain[outliers] *= gains
        if twin.architecture == "albert" or layer < size.layers - 1:
            outer.gain[outliers] /= gains
        if twin.architecture == "albert":
            norm = outer  # what all uses of the layer but the first read
        prefix = names.layer.format(layer)
        for part, (weight, bias) in _layer(draw, size, steps, before=norm, inner=inner, outer=outer).items():
            state[f"{prefix}{getattr(names, part)}.weight"] = weight
            state[f"{prefix}{getattr(names, part)}.bias"] = bias
        norm = outer

    if names.pooler is not None:
        # In the file though no sentence vector uses it: a loader must not trip over it.
        state[f"{names.pooler}.weight"] = draw.linear(size.hidden, size.hidden, 1.0)
        state[f"{names.pooler}.bias"] = 0.02 * draw.normal(size.hidden)
    return state


def _embeddings(twin: Twin, size: Size, draw: _Draw, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Add the three tables and their norm to ``state``; return the sum (width,) that [CLS] enters the norm with."""
    width = size.embedding or size.hidden
    cls_id, sep_id = (twin.tokenizer.special_tokens.index(token) for token in ("[CLS]", "[SEP]"))
    # Rows of unequal size: LayerNorm's epsilon then changes directions, not only sizes.
    words = _WORD_STD * draw.normal(size.vocabulary, width) * torch.exp(0.25 * draw.normal(size.vocabulary, 1))
    words[sep_id] = 0.3 * words[sep_id] - 0.95 * words[cls_id]
    positions = _POSITION_SHARE * _WORD_STD * draw.normal(twin.positions, width)
    state["embeddings.word_embeddings.weight"] = words
    state["embeddings.position_embeddings.weight"] = positions
    # RoBERTa counts positions from the padding id plus one (2 in fairseq, where its table comes from).
    first_position = twin.tokenizer.special_tokens.index("[PAD]") + 1 if twin.architecture == "roberta" else 0
    cls_row = words[cls_id] + positions[first_position]
    if twin.token_types:
        sizes = torch.tensor([[0.004], [0.02]])[: twin.token_types]
        types = sizes * draw.normal(twin.token_types, width)
        state["embeddings.token_type_embeddings.weight"] = types
        cls_row = cls_row + types[0]
    norm = _Norm.drawn(draw, width)
    outliers = draw.channels(width)
    norm.gain[outliers] *= draw.outlier_gains(len(outliers))
    state["embeddings.LayerNorm.weight"] = norm.gain
    state["embeddings.LayerNorm.bias"] = norm.bias
    return cls_row


def _layer(
    draw: _Draw, size: Size, steps: _Steps, *, before: _Norm, inner: _Norm, outer: _Norm
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return weight and bias of each part of one transformer layer, by the part's name in ``_Names``.

    Args:
        draw: Where the numbers come from.
        size: The widths.
        steps: How far the two sublayers move their inputs.
        before: The norm whose output the layer reads.
        inner: The norm after attention.
        outer: The norm after the feed-forward sublayer.
    """
    hidden = size.hidden
    reading = 1 / before.root_mean_square
    value, value_bias = draw.linear(hidden, hidden, reading), 0.05 * draw.normal(hidden)
    mix = draw.linear(hidden, hidden, steps.attention)
    # In float64, so that the sums' order, which is the machine's, does not reach the stored bits.
    mixed_mean = (mix.double() @ (value.double() @ before.bias.double() + value_bias)).float()

    # Spread by 1.5 and centred a little below zero, the feed-forward inputs visit GELU's whole bend, where its tanh
    # approximation is off by most.
    expand = draw.linear(size.feed_forward, hidden, 1.5 / inner.root_mean_square)
    expand_bias = 0.2 * draw.normal(size.feed_forward) - 0.3
    # GELU's outputs then have a root mean square of about 0.9.
    contract = draw.linear(hidden, size.feed_forward, steps.feed_forward / 0.9)
    spread = (expand * inner.gain).double().square().sum(dim=1)
    centre = expand.double() @ inner.bias.double() + expand_bias
    contracted_mean = (contract.double() @ _mean_gelu(centre, spread)).float()

    return {
        "query": (draw.linear(hidden, hidden, _QUERY_KEY_GAIN * reading), 0.1 * draw.normal(hidden)),
        "key": (draw.linear(hidden, hidden, _QUERY_KEY_GAIN * reading), 0.05 * draw.normal(hidden)),
        "value": (value, value_bias),
        "attention_output": (mix, 0.02 * draw.normal(hidden) - mixed_mean),
        "attention_norm": (inner.gain, inner.bias),
        "feed_forward": (expand, expand_bias),
        "feed_forward_output": (contract, 0.02 * draw.normal(hidden) - contracted_mean),
        "output_norm": (outer.gain, outer.bias),
    }


# --- the command line ------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Run ``python -m recipes.twins``: build one twin and print where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.twins", description="Build a twin of a published checkpoint."
    )
    parser.add_argument("name", choices=TWINS, help="whose twin")
    parser.add_argument("folder", type=Path, help="where to write it")
    parser.add_argument("--full", action="store_true", help="the original's sizes; without it a small one for tests")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    options = parser.parse_args(arguments)
    print(build_twin(options.name, options.folder, size="full" if options.full else "small", seed=options.seed))


if __name__ == "__main__":
    main()
