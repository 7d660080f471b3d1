"""Seeded weights that let faults of an export be seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from tests.support.twins.names import NAMES
from tests.support.twins.originals import Size, Twin

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
    """A LayerNorm: ``gain * normalized + bias``, both (width,)."""

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


def state_dict(twin: Twin, size: Size, generator: torch.Generator) -> dict[str, torch.Tensor]:
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
    names = NAMES[twin.architecture]
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
    """Return weight and bias of each part of one transformer layer, by the part's name in ``ParameterNames``.

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

    # Spread by 1.5 and centered a little below zero, the feed-forward inputs visit GELU's whole bend, where its tanh
    # approximation is off by most.
    expand = draw.linear(size.feed_forward, hidden, 1.5 / inner.root_mean_square)
    expand_bias = 0.2 * draw.normal(size.feed_forward) - 0.3
    # GELU's outputs then have a root mean square of about 0.9.
    contract = draw.linear(hidden, size.feed_forward, steps.feed_forward / 0.9)
    spread = (expand * inner.gain).double().square().sum(dim=1)
    center = expand.double() @ inner.bias.double() + expand_bias
    contracted_mean = (contract.double() @ _mean_gelu(center, spread)).float()

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
