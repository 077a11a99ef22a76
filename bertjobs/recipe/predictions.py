"""How many tokens of a sequence a masked language model predicts."""

from __future__ import annotations

import math

MASKED_SHARE = 0.15
"""BERT's share of the tokens (Devlin et al., arXiv 1810.04805, 3.1)."""


def most_predictions(sequence_length: int, masked_share: float) -> int:
    """The most masked tokens of a sequence, where nothing else is asked for: the share of its tokens, rounded up.

    With BERT's share it is what BERT used: 20 for 128 tokens, 80 for 512, and so on in that proportion.
    """
    if masked_share == MASKED_SHARE:
        return -(-sequence_length * 20 // 128)
    return math.ceil(round(masked_share * sequence_length, 6))
