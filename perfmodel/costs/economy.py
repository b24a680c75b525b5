"""Economy of serving: price and energy of a token, and the most tokens that arithmetic allows."""

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula


@formula(
    name="token_price",
    quantity="price",
    equation=r"p = \frac{N\,P}{r}",
    source="Definition: what the devices cost per hour over the tokens that they produce in it",
)
def token_price(gpus: Floats, price_per_hour: Floats, token_rate: Floats) -> Floats:
    r"""Price of one output token.

    .. math:: p = \frac{N\,P}{r}

    Parameters
    ----------
    gpus : float or array
        Devices N of the deployment, idle ones included.
    price_per_hour : float or array
        Price P of one device for one hour [USD/h].
    token_rate : float or array
        Output tokens r per second [1/s].

    Returns
    -------
    float or array
        US dollars per token [USD].

    References
    ----------
    Definition; prompts are paid for by the output tokens, as Splitwise (arXiv:2311.18677) counts throughput per cost.

    Examples
    --------
    >>> round(float(token_price(8, 2.5, 5000.0)) * 1e6, 3)
    1.111
    """
    return as_floats(gpus) * price_per_hour / 3600.0 / token_rate


@formula(
    name="token_energy",
    quantity="energy",
    equation=r"e = \frac{N\,W}{r}",
    source="Definition: power of the devices at their limit over the tokens per second; an upper bound",
)
def token_energy(gpus: Floats, power_w: Floats, token_rate: Floats) -> Floats:
    r"""Most energy that one output token takes: devices at their power limit all the time.

    .. math:: e = \frac{N\,W}{r}

    Parameters
    ----------
    gpus : float or array
        Devices N of the deployment.
    power_w : float or array
        Power limit W of one device [W].
    token_rate : float or array
        Output tokens r per second [1/s].

    Returns
    -------
    float or array
        Energy per token, hosts and cooling left out [J].

    References
    ----------
    Definition. Splitwise (arXiv:2311.18677), section III.F measures prompts near the limit and decoding far below it,
    so that this bound is loose where decoding dominates.

    Examples
    --------
    >>> round(float(token_energy(8, 700.0, 5000.0)), 3)
    1.12
    """
    return as_floats(gpus) * power_w / token_rate


@formula(
    name="optimal_throughput",
    quantity="rate",
    equation=r"r = \frac{\pi}{2\,P_a}\,\frac{o}{T + o}",
    source="NanoFlow (arXiv:2408.12757), equation 5: all arithmetic at peak, two per active parameter and token",
)
def optimal_throughput(
    active_parameters: Floats, prompt_tokens: Floats, output_tokens: Floats, *, peak_flops: Floats
) -> Floats:
    r"""Most output tokens per second and device that arithmetic allows, prompts included.

    .. math:: r = \frac{\pi}{2\,P_a}\,\frac{o}{T + o}

    Parameters
    ----------
    active_parameters : float or array
        Weights P_a that one token is multiplied with.
    prompt_tokens : float or array
        Tokens T of a prompt that are computed.
    output_tokens : float or array
        Output tokens o of a request.
    peak_flops : float or array
        Dense peak in the format of the weights [FLOP/s].

    Returns
    -------
    float or array
        Output tokens per second of one device [1/s].

    References
    ----------
    NanoFlow (arXiv:2408.12757), equation 5, which counts prompt and output tokens alike and takes the measured GEMM
    rate for the peak: 1857 tokens per second for LLaMA-2-70B on an A100, where the datasheet gives 2229.

    Examples
    --------
    >>> round(2 * float(optimal_throughput(70e9, 512, 512, peak_flops=260e12)))
    1857
    """
    share = as_floats(output_tokens) / (as_floats(prompt_tokens) + output_tokens)
    return as_floats(peak_flops) / (2.0 * as_floats(active_parameters)) * share
