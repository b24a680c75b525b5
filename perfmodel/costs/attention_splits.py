"""Splits of the KV cache that libraries choose for decode attention [1]: the rules in their source."""

from typing import Any

import numpy as np

SPLIT_RULES = ("filled", "waves", "root", "segments")
"""As many splits as keep the cores busy, or the rule of a library; see `library_splits`."""

KEYS_PER_SPLIT = 128.0
"""Keys for which TensorRT-LLM's XQA kernels count one split (kMinHistoryTokensPerBlock)."""

MOST_WAVES = 8.0
"""Waves of thread blocks that these splits may make (kTargetWaveFactor)."""

SEGMENTS, SEGMENTED_BLOCKS = 16.0, 128.0
"""Splits of vLLM's Triton kernel, and the most thread blocks before splitting for which it splits at all."""


def library_splits(rule: str, blocks: Any, context: Any, cores: Any) -> Any:
    r"""Return the splits that a library makes, whether they are needed or not.

    .. math:: s_{waves} = \min\left(\left\lfloor\frac{c}{128}\right\rfloor,
              \left\lfloor\frac{8 S}{b}\right\rfloor\right), \quad
              s_{root} = \min\left(s_{waves},
              \left\lfloor\sqrt{8 \lfloor c / 128 \rfloor} + \tfrac{1}{2}\right\rfloor\right),
              \quad s_{segments} = 16\,[b \le 128]

    and at least one.

    Parameters
    ----------
    rule : str
        "waves" or "root" (XQA before and after it limits the final reduction), or "segments" (Triton).
    blocks : float or array
        Thread blocks before splitting.
    context : float or array
        Keys of a sequence, those outside a window included.
    cores : float or array
        Streaming multiprocessors.

    Returns
    -------
    float or numpy.ndarray
        Splits.

    References
    ----------
    NVIDIA TensorRT-LLM, decoderXQAImplCommon.h, computeMultiBlockCount.
    vLLM, triton_unified_attention.py, kernel_unified_attention_3d.

    Examples
    --------
    >>> [float(library_splits(rule, 128.0, 4096.0, 132.0)) for rule in ("waves", "root", "segments")]
    [8.0, 8.0, 16.0]
    >>> [float(library_splits(rule, 1.0, 65536.0, 132.0)) for rule in ("waves", "root")]
    [512.0, 64.0]
    """
    if rule == "segments":
        return np.where(blocks <= SEGMENTED_BLOCKS, SEGMENTS, 1.0)
    splits = np.floor(context / KEYS_PER_SPLIT)
    if rule == "root":
        splits = np.minimum(splits, np.floor(np.sqrt(8.0 * splits) + 0.5))
    return np.maximum(np.minimum(splits, np.floor(MOST_WAVES * cores / blocks)), 1.0)
