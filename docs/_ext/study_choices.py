"""What choices made with the published tables in view are worth, for docs/cloudmatrix.md."""

from dataclasses import replace

from deepseek_h800 import hopper, hopper_decode_s, hopper_prefill_s, training
from perfmodel.estimate.target import Target
from perfmodel.hardware.engine import Waits
from supernode import prefill_s, supernode, token_s, with_kernel


def otherwise() -> dict[str, tuple[float, float]]:
    """What choices made with the tables in view are worth: rates with them and without.

    Returns
    -------
    dict
        Choice -> tokens per second of an NPU or a GPU, as it is and otherwise.
    """
    dies, gpus = supernode(), hopper()
    streams, exchange = dies.engine.decode_streams, gpus.engine.decode_streams
    if streams is None or exchange is None:
        raise TypeError("both engines cut decode steps in two")

    def decode(on: Target) -> float:
        return 128.0 / token_s(128, 1024, 1024, on=on)

    def profile(on: Target) -> float:
        return 128.0 / hopper_decode_s(128, 128.0, 4096.0, on)

    def prefill(on: Target) -> float:
        return 16384.0 / prefill_s(on)

    held = replace(streams, first_cores=(0.6667,))
    idle = {"decode_step_s": 0.0, "decode_request_s": 0.0}
    return {
        "cores": (decode(dies), decode(supernode(decode_streams=held))),
        "prefill": (prefill(dies), prefill(with_kernel(dies, "prefill_mla", compute_efficiency=0.654))),
        "gating": (prefill(dies), prefill(supernode(prefill_waits=Waits()))),
        "flashmla": (profile(gpus), profile(with_kernel(gpus, "decode_mla", compute_efficiency=0.667))),
        "exchange": (
            profile(gpus),
            profile(replace(gpus, engine=replace(gpus.engine, decode_streams=replace(exchange, exchange_s=0.0)))),
        ),
        "host": (profile(gpus), profile(replace(gpus, engine=replace(gpus.engine, **idle)))),  # type: ignore[arg-type]
        "waits": (
            16384.0 / hopper_prefill_s(gpus),
            16384.0 / hopper_prefill_s(replace(gpus, engine=replace(gpus.engine, prefill_waits=Waits()))),
        ),
        "experts": (training()["tokens_per_s_per_gpu"], training(stack="neutral")["tokens_per_s_per_gpu"]),
    }
