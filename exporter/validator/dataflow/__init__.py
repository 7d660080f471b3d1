"""Data flow: what the folded float32 graph can depend on, read from its operators instead of tried.

Probes and sweeps run some thousand sentences, a few batch sizes and a part of all widths. A graph that answers wrongly
in a batch of exactly 57, or where two certain words meet, passes them. Such a graph must compare something. So every
operator is looked up in a table of what it may read (``rules``, with ``kinds`` and ``conditions``). Where the check
passes:

* no row of a batch reads another row, and the batch size does nothing but shape tensors;
* token ids find a row of one table of word vectors, and may be compared with the padding id, and with nothing else;
* the attention mask masks, and is counted; it is compared with 0 only, and what hidden states are computed with is a
  number that a pooling needs, for every number of tokens at every width (``counts``);
* what is computed from the padded width alone, such as positions, is the same at every width (``widths``);
* the operators on word vectors are those that torch traced, apart from the rewrites for a target (``graph.census``).

The last one is needed because word vectors tell much about a row: a sum can count tokens, and a difference can tell a
word. The check does not see an operator of torch's own trace that is wrong; that is what gates and sweeps are for.
"""

from exporter.validator.dataflow.check import check_dataflow

__all__ = ["check_dataflow"]
