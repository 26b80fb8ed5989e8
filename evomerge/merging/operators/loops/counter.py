"""Random bits by counting: every element has its own, wherever it is computed.

The stream of a tensor is the SplitMix64 sequence (Steele et al. 2014, "Fast splittable
pseudorandom number generators") whose state starts at a hash of what the stream is for.
Word ``j`` is a pure function of that key and ``j``, so no device, cut or order of work
can change it. Element ``2j`` takes the word's low 32 bits, element ``2j + 1`` the high.
"""

import hashlib

import torch

from evomerge.core.digest import Scalar, canonical_json
from evomerge.merging.constants import GOLDEN, LAST_SHIFT, MIX


def stream_key(*parts: Scalar) -> int:
    """Return the 64-bit key of the stream that these parts name."""
    text = canonical_json(list(parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def share_of(probability: float) -> int:
    """Return a probability above 0 and below 1 in units of 2**-32."""
    return min(max(round(probability * 2**32), 1), 2**32 - 1)


def signed(word: int) -> int:
    """Return the 64-bit word as the signed number torch stores for it."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


def lanes_at(key: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the random bits of elements anywhere, as one expression of their places.

    The bits of :meth:`Coins.lanes`, for compilers that keep no words in between.

    Args:
        key: Which stream; int64, one number, as :func:`signed` gives it.
        places: int64, flat indices.

    Returns:
        int64, evenly spread from -2**31 to 2**31 - 1.
    """
    words = ((places >> 1) + 1) * signed(GOLDEN) + key
    for shift, factor in MIX:
        words = (words ^ _shifted(words, shift)) * signed(factor)
    words = words ^ _shifted(words, LAST_SHIFT)
    # The half of an element is brought to the top, and down with its sign.
    return (words << (32 - 32 * (places & 1))) >> 32


def _shifted(words: torch.Tensor, shift: int) -> torch.Tensor:
    return (words >> shift) & ((1 << (64 - shift)) - 1)


class Coins:
    """Weighted coin flips for the elements of a tensor, block by block.

    Args:
        longest: Elements of the longest block that will be asked for.
        device: Where the flips are wanted.
    """

    def __init__(self, longest: int, device: torch.device) -> None:
        words = (longest + 1) // 2
        steps = torch.arange(1, words + 1, dtype=torch.int64, device=device)
        self._steps = steps.mul_(signed(GOLDEN))
        self._words = torch.empty_like(steps)
        self._shifted = torch.empty_like(steps)
        self._flips = torch.empty(2 * words, dtype=torch.float32, device=device)

    def flip(self, key: int, block: slice, probability: float) -> torch.Tensor:
        """Return 1.0 with the given probability and else 0.0, for every element.

        Args:
            key: Which stream, from :func:`stream_key`.
            block: Which elements; starts at an even one.
            probability: Above 0 and below 1; taken to the nearest multiple of 2**-32.

        Returns:
            Shape ``(block length,)``, fp32; overwritten by the next call.
        """
        lanes = self.lanes(key, block)
        # Lanes are signed: evenly spread from -2**31 to 2**31 - 1.
        share = share_of(probability) - 2**31
        return torch.lt(lanes, share, out=self._flips[: len(lanes)])

    def lanes(self, key: int, block: slice) -> torch.Tensor:
        """Return 32 random bits for every element of a block.

        Returns:
            Shape ``(block length,)``, int32; overwritten by the next call.
        """
        n = block.stop - block.start
        half = (n + 1) // 2
        words, shifted = self._words[:half], self._shifted[:half]
        first = signed(key + (block.start // 2) * GOLDEN)
        torch.add(self._steps[:half], first, out=words)
        for shift, factor in MIX:
            _xor_shift(words, shift, shifted)
            words.mul_(signed(factor))
        return _xor_shift(words, LAST_SHIFT, shifted).view(torch.int32)[:n]


def _xor_shift(words: torch.Tensor, shift: int, space: torch.Tensor) -> torch.Tensor:
    torch.bitwise_right_shift(words, shift, out=space)
    # torch shifts copies of the sign in; SplitMix64 shifts zeros in.
    space.bitwise_and_((1 << (64 - shift)) - 1)
    return words.bitwise_xor_(space)
