"""Scheduling of prompts among decode steps: pieces of a prompt, their context, how often weights are read for it."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula

GROUP_TOKENS = 512.0
"""Prompt tokens per layer group of layered prefill (arXiv:2510.08055)."""


@formula(
    name="prompt_chunks",
    quantity="count",
    equation=r"k = \left\lceil \frac{T}{c} \right\rceil",
    source="SARATHI (arXiv:2308.16369), section 4.1: a prompt is computed in chunks of equal size",
)
def prompt_chunks(tokens: Floats, chunk_tokens: Floats) -> Floats:
    r"""Chunks of a prompt, and so the steps that it takes and the times that every weight is read for it.

    .. math:: k = \left\lceil \frac{T}{c} \right\rceil

    Parameters
    ----------
    tokens : float or array
        Tokens T of the prompt that are computed.
    chunk_tokens : float or array
        Tokens c of a chunk.

    Returns
    -------
    float or array
        Chunks, at least 1.

    References
    ----------
    SARATHI (arXiv:2308.16369), section 4.1; the experts of a layer are loaded as often (arXiv:2510.08055, section 3).

    Examples
    --------
    >>> float(prompt_chunks(4096, 512)), float(prompt_chunks(100, 512))
    (8.0, 1.0)
    """
    return np.maximum(np.ceil(as_floats(tokens) / chunk_tokens), 1.0)


@formula(
    name="layer_groups",
    quantity="count",
    equation=r"G = \max\left(1, \left\lceil \frac{T}{512} \right\rceil\right)",
    source="Layered prefill (arXiv:2510.08055): one group of layers per step, the whole prompt through each",
)
def layer_groups(tokens: Floats, layers: Floats) -> Floats:
    r"""Layer groups of a layered prefill, and so the steps that a prompt takes; weights are read once.

    .. math:: G = \max\left(1, \left\lceil \frac{T}{512} \right\rceil\right)

    Parameters
    ----------
    tokens : float or array
        Tokens T of the prompt that are computed.
    layers : float or array
        Layers of the model, which there cannot be more groups than.

    Returns
    -------
    float or array
        Groups.

    References
    ----------
    Layered prefill (arXiv:2510.08055), section 4; differs by the limit to the number of layers.

    Examples
    --------
    >>> float(layer_groups(4096, 48)), float(layer_groups(100_000, 48))
    (8.0, 48.0)
    """
    return np.minimum(prompt_chunks(tokens, GROUP_TOKENS), layers)


@formula(
    name="chunk_context",
    quantity="count",
    equation=r"\bar{c} = c_0 + \frac{k + 1}{2}\,\frac{T}{k}",
    source="SARATHI (arXiv:2308.16369), section 4.2: each chunk reads the cache of the chunks before it again",
)
def chunk_context(tokens: Floats, chunks: Floats, found_tokens: Floats = 0.0) -> Floats:
    r"""Mean context of the chunks of a prompt, once their own tokens are appended.

    .. math:: \bar{c} = c_0 + \frac{k + 1}{2}\,\frac{T}{k}

    Parameters
    ----------
    tokens : float or array
        Tokens T of the prompt that are computed.
    chunks : float or array
        Chunks k.
    found_tokens : float or array
        Tokens c_0 whose cache was found.

    Returns
    -------
    float or array
        Tokens.

    References
    ----------
    SARATHI (arXiv:2308.16369), section 4.2: the i-th of k chunks reads the cache of i chunks.

    Examples
    --------
    >>> float(chunk_context(4096, 8)), float(chunk_context(4096, 1))
    (2304.0, 4096.0)
    """
    return as_floats(found_tokens) + (as_floats(chunks) + 1.0) / 2.0 * as_floats(tokens) / chunks


@formula(
    name="decoding_limit",
    quantity="count",
    equation=r"n = \frac{o\,c}{T + o\,q}",
    source="SARATHI (arXiv:2308.16369), section 4.4: prompt and output tokens balance where P : D = C : (B - 1)",
)
def decoding_limit(tokens: Floats, output_tokens: Floats, chunk_tokens: Floats, queries: Floats = 1.0) -> Floats:
    r"""Most requests that decode at once where every step holds one chunk of a prompt.

    .. math:: n = \frac{o\,c}{T + o\,q}

    A step takes c - n q tokens of prompts, so prompts end every T / (c - n q) steps, and each then decodes for o steps.

    Parameters
    ----------
    tokens : float or array
        Tokens T of a prompt that are computed.
    output_tokens : float or array
        Output tokens o of a request.
    chunk_tokens : float or array
        Tokens c of a step, those of running requests included.
    queries : float or array
        Tokens q of each running request in a step.

    Returns
    -------
    float or array
        Requests; any further ones wait for their prompts.

    References
    ----------
    SARATHI (arXiv:2308.16369), section 4.4, solved for the batch.

    Examples
    --------
    >>> float(decoding_limit(8192, 256, 512)) < 16, round(float(decoding_limit(2048, 2048, 512)), 1)
    (True, 256.0)
    """
    o = as_floats(output_tokens)
    return o * chunk_tokens / (as_floats(tokens) + o * queries)


@formula(
    name="balanced_wait",
    quantity="time",
    equation=r"w = \frac{n\,s - T + \sqrt{(T - n\,s)^2 + 2\,n\,s^2}}{2}",
    source="M/D/1 wait at the rate that a closed loop settles at, n / (T + w): root of 2 w (T + w - n s) = n s^2",
)
def balanced_wait(service_s: Floats, requests: Floats, cycle_s: Floats) -> Floats:
    r"""Mean wait for prompts in a closed loop that slows down as they queue.

    .. math:: w = \frac{n\,s - T + \sqrt{(T - n\,s)^2 + 2\,n\,s^2}}{2}

    Far below saturation it is the wait of an open queue; far above, what the bottleneck leaves, n s - T.

    Parameters
    ----------
    service_s : float or array
        Time s for which a prompt holds the steps that it needs [s].
    requests : float or array
        Requests n in flight; any but one's own can be ahead.
    cycle_s : float or array
        Life T of a request that waits for nobody [s].

    Returns
    -------
    float or array
        Wait before a prompt's own first step [s].

    References
    ----------
    Kleinrock 1975, M/D/1; Denning, Buzen 1978 for the limit. n here counts the others, n - 1 of the loop.

    Examples
    --------
    >>> round(float(balanced_wait(0.1, 11, 5.0)), 4), round(float(balanced_wait(0.1, 101, 5.0)), 2)
    (0.0125, 5.1)
    """
    s, others = as_floats(service_s), np.maximum(as_floats(requests) - 1.0, 0.0)
    slack = as_floats(cycle_s) - others * s
    return (np.sqrt(slack**2 + 2.0 * others * s**2) - slack) / 2.0
