"""Counts of one training step: parameters, floating-point operations under each convention, activation bytes."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula

RECOMPUTE = ("none", "selective", "full", "pointwise", "latent")
"""What is computed a second time in the backward pass: nothing, the attention core, every layer, or what norms and
activation functions put out."""

_MEGATRON = "Narayanan et al. 2021 (arXiv:2104.04473)"
_KORTHIKANTI = "Korthikanti et al. 2022 (arXiv:2205.05198)"


@formula(
    name="gpt_parameters",
    quantity="count",
    equation=r"P = 12 l h^2 \left(1 + \frac{13}{12 h} + \frac{V + s}{12 l h}\right)",
    source=f"{_MEGATRON}, equation 2",
)
def gpt_parameters(layers: Floats, hidden: Floats, vocab: Floats, positions: Floats) -> Floats:
    r"""Count the weights of a GPT with an MLP four times as wide as the model.

    .. math:: P = 12 l h^2 \left(1 + \frac{13}{12 h} + \frac{V + s}{12 l h}\right)

    Parameters
    ----------
    layers : float or array
        Transformer layers l.
    hidden : float or array
        Width h of the model.
    vocab : float or array
        Tokens V of the vocabulary.
    positions : float or array
        Rows s of the learned position table.

    Returns
    -------
    float or array
        Weights, biases and norms; output projection tied to the token table.

    References
    ----------
    Narayanan et al. 2021 (arXiv:2104.04473), equation 2.

    Examples
    --------
    >>> round(float(gpt_parameters(105, 20480, 51200, 2048)) / 1e9, 1)
    529.6
    """
    depth, h = as_floats(layers), as_floats(hidden)
    return 12.0 * depth * h**2 * (1.0 + 13.0 / (12.0 * h) + (as_floats(vocab) + positions) / (12.0 * depth * h))


@formula(
    name="gpt_step_flops",
    quantity="work",
    equation=r"F = 72\,B s l h^2 \left(1 + \frac{s}{6h} + \frac{V}{12 l h}\right), \quad"
    r" 72 \to 96 \text{ and } V/16lh \text{ with full recomputation}",
    source=f"{_MEGATRON}, equation 3; {_KORTHIKANTI}, equations 7 and 8 and appendix A",
)
def gpt_step_flops(
    batch: Floats, tokens: Floats, layers: Floats, hidden: Floats, vocab: Floats, *, recompute: str = "none"
) -> Floats:
    r"""Floating-point operations of one step of a GPT, attention scores not halved by the causal mask.

    .. math:: F = 72\,B s l h^2 \left(1 + \frac{s}{6h} + \frac{V}{12 l h}\right)

    With ``recompute`` "none" these are the model FLOP (MFU). "selective" has :math:`s/3h` in place of :math:`s/6h`,
    "full" repeats the forward pass of every layer, :math:`96\,B s l h^2 (1 + s/6h + V/16lh)`: hardware FLOP (HFU).

    Parameters
    ----------
    batch : float or array
        Sequences B of the step.
    tokens : float or array
        Tokens s of a sequence.
    layers : float or array
        Transformer layers l.
    hidden : float or array
        Width h of the model.
    vocab : float or array
        Tokens V of the vocabulary.
    recompute : str
        One of `RECOMPUTE`.

    Returns
    -------
    float or array
        Operations of forward, backward and recomputation [FLOP].

    Notes
    -----
    The 52 % of peak of Narayanan et al. count the recomputation (HFU); by the model's own operations the same runs
    reach 33 to 39 % (MFU).

    References
    ----------
    Narayanan et al. 2021 (arXiv:2104.04473), equation 3. Korthikanti et al. 2022 (arXiv:2205.05198), section 5.3.

    Examples
    --------
    >>> flops = gpt_step_flops(2520, 2048, 105, 20480, 51200, recompute="full")
    >>> round(float(flops) / 54.159 / 2520 / 1e12)
    163
    """
    s, depth, h = as_floats(tokens), as_floats(layers), as_floats(hidden)
    base = as_floats(batch) * s * depth * h**2
    head = as_floats(vocab) / (depth * h)
    if recompute == "full":
        return 96.0 * base * (1.0 + s / (6.0 * h) + head / 16.0)
    scores = s / (3.0 * h) if recompute == "selective" else s / (6.0 * h)
    return 72.0 * base * (1.0 + scores + head / 12.0)


@formula(
    name="layer_activation_bytes",
    quantity="bytes",
    equation=r"A = s b h\left(10 + \frac{24}{t} + \frac{5 a s}{h t}\right), \quad"
    r" \frac{s b h}{t}\left(34 + \frac{5 a s}{h}\right) \text{ with sequence parallelism}",
    source=f"{_KORTHIKANTI}, table 2 and equations 1 to 6",
)
def layer_activation_bytes(
    batch: Floats,
    tokens: Floats,
    hidden: Floats,
    heads: Floats,
    tp: Floats = 1.0,
    *,
    sequence_parallel: bool = False,
    recompute: str = "none",
    flash: bool = False,
) -> Floats:
    r"""Bytes that the backward pass needs of one GPT layer, per device and microbatch.

    .. math:: A = s b h\left(10 + \frac{24}{t} + \frac{5 a s}{h t}\right)

    and :math:`\frac{s b h}{t}(34 + 5as/h)` with sequence parallelism; without the term in :math:`a s` when the
    attention core is recomputed or runs in a fused (flash) kernel; :math:`2 s b h` when the whole layer is recomputed.

    Parameters
    ----------
    batch : float or array
        Sequences b of a microbatch.
    tokens : float or array
        Tokens s of a sequence.
    hidden : float or array
        Width h of the model.
    heads : float or array
        Attention heads a.
    tp : float or array
        Tensor-parallel ranks t.
    sequence_parallel : bool
        Whether activations outside the matrices are divided too.
    recompute : str
        One of `RECOMPUTE`.
    flash : bool
        Whether a fused attention kernel keeps no scores.

    Returns
    -------
    float or array
        Bytes with 16-bit activations and 8-bit dropout masks [B].

    Notes
    -----
    The input that full recomputation keeps is not divided by t in the source.

    References
    ----------
    Korthikanti et al. 2022 (arXiv:2205.05198), table 2.

    Examples
    --------
    >>> float(layer_activation_bytes(1, 2048, 12288, 96, 8) / 2**20)
    552.0
    >>> float(layer_activation_bytes(1, 2048, 12288, 96, 8, sequence_parallel=True, recompute="selective") / 2**20)
    102.0
    """
    s, h, t = as_floats(tokens), as_floats(hidden), as_floats(tp)
    base = s * as_floats(batch) * h
    if recompute == "full":
        return 2.0 * base
    scores = 0.0 if flash or recompute == "selective" else 5.0 * as_floats(heads) * s / h
    return base / t * (34.0 + scores) if sequence_parallel else base * (10.0 + 24.0 / t + scores / t)


@formula(
    name="utilisation",
    quantity="fraction",
    equation=r"u = \frac{F}{t\,N\,P}",
    source="Chowdhery et al. 2022 (arXiv:2204.02311), appendix B",
)
def utilisation(flops: Floats, step_s: Floats, *, gpus: Floats, peak_flops: Floats) -> Floats:
    r"""Share of the devices' dense peak that a step's operations amount to.

    .. math:: u = \frac{F}{t\,N\,P}

    Parameters
    ----------
    flops : float or array
        Operations F of the step: the model's own for MFU, recomputation counted for HFU [FLOP].
    step_s : float or array
        Time t of the step [s].
    gpus : float or array
        Devices N.
    peak_flops : float or array
        Dense peak P of one device in the format of the matrix products [FLOP/s].

    Returns
    -------
    float or array
        Utilisation [1].

    References
    ----------
    Chowdhery et al. 2022, PaLM (arXiv:2204.02311), appendix B.

    Examples
    --------
    >>> round(float(utilisation(gpt_step_flops(64, 2048, 96, 12288, 51200), 13.75, gpus=64, peak_flops=312e12)), 3)
    0.514
    """
    return as_floats(flops) / (as_floats(step_s) * gpus * peak_flops)


@formula(
    name="optimizer_bytes",
    quantity="bytes",
    equation=r"D = w\,P / n",
    source="Rajbhandari et al. 2020, ZeRO (arXiv:1910.02054), section 3.1: states of Adam in mixed precision",
)
def optimizer_bytes(parameters: Floats, ranks: Floats = 1.0, *, passes: Floats = 36.0) -> Floats:
    r"""Bytes that an Adam step in mixed precision moves.

    .. math:: D = w\,P / n

    Parameters
    ----------
    parameters : float or array
        Weights P on the device before the optimizer is divided.
    ranks : float or array
        Devices n that share the optimizer's states.
    passes : float or array
        Bytes read and written per weight: gradient (4, read twice for its norm), master weight, both moments (8 each,
        read and written) and the new 16-bit weight (2) [B].

    Returns
    -------
    float or array
        Bytes [B].

    References
    ----------
    Rajbhandari et al. 2020, ZeRO (arXiv:1910.02054), section 3.1.

    Examples
    --------
    >>> float(optimizer_bytes(1e9)) / 1e9
    36.0
    """
    return as_floats(passes) * parameters / np.maximum(as_floats(ranks), 1.0)
