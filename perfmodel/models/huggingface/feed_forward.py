"""Feed-forward layers of a description: dense, experts, and which layers have which (sizes only)."""

from perfmodel.errors import ModelConfigError
from perfmodel.layers.mlp import Mlp
from perfmodel.layers.moe import MixtureOfExperts
from perfmodel.models.huggingface.fields import Fields
from perfmodel.models.huggingface.parts import Style, hidden_size


def dense_mlp(fields: Fields, style: Style, intermediate: int | None = None) -> Mlp:
    """Read a dense feed-forward layer.

    Parameters
    ----------
    fields : Fields
        The description.
    style : Style
        What the family does by itself.
    intermediate : int, optional
        Inner width where it is not the usual field.

    Returns
    -------
    Mlp
        The layer.
    """
    hidden = hidden_size(fields)
    if intermediate is None:
        names = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
        default = {} if style.gated else {"default": 4 * hidden}
        intermediate = fields.integer(*names, **default)
    return Mlp(hidden, intermediate, style.gated, bias=fields.flag("mlp_bias", default=style.biases))


def expert_layers(fields: Fields, layers: int) -> list[bool]:
    """Read which layers have experts.

    Parameters
    ----------
    fields : Fields
        The description.
    layers : int
        Layers of the model.

    Returns
    -------
    list of bool
        True for layers with experts.
    """
    frequency = fields.values.get("moe_layer_freq")
    fields.use("moe_layer_freq")
    if isinstance(frequency, list) and frequency:
        return [bool(value) for value in fields.items("moe_layer_freq", layers)]
    first = fields.integer("first_k_dense_replace", default=0, minimum=0)
    step = fields.integer("interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq", default=1)
    dense = {int(i) for i in fields.items("mlp_only_layers")}
    return [i >= first and i not in dense and (i + 1) % step == 0 for i in range(layers)]


def experts(fields: Fields, style: Style) -> MixtureOfExperts:
    """Read the experts of a layer.

    Parameters
    ----------
    fields : Fields
        The description.
    style : Style
        What the family does by itself.

    Returns
    -------
    MixtureOfExperts
        Router, routed and shared experts.

    Raises
    ------
    ModelConfigError
        If a token visits more experts than there are.
    """
    count = fields.integer("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    topk = fields.integer("num_experts_per_tok", "experts_per_token", "top_k_experts", "moe_top_k")
    if topk > count:
        raise ModelConfigError(
            f"{fields.place}: field 'num_experts_per_tok' is {topk}; it cannot exceed the {count} experts"
        )
    inner = fields.integer("moe_intermediate_size", "intermediate_size")
    number = fields.integer("n_shared_experts", "num_shared_experts", default=0, minimum=0)
    names = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim")
    shared = fields.integer(*names, "shared_intermediate_size", default=number * inner, minimum=0)
    routing = fields.flag("use_routing_bias", "use_moe_router_bias", default=style.router_bias)
    groups = fields.integer("n_group", default=0, minimum=0)
    limit = fields.integer("topk_group", default=0, minimum=0)
    limited = 0 < limit < groups
    return MixtureOfExperts(
        hidden_size(fields),
        count,
        topk,
        inner,
        gated=style.gated,
        bias=style.expert_bias,
        router_bias=routing or fields.values.get("topk_method") == "noaux_tc",
        shared_intermediate=shared,
        shared_gate=bool(shared) and style.shared_gate,
        latent=fields.integer("moe_latent_size", default=0),
        groups=groups if limited else 0,
        group_limit=limit if limited else 0,
    )
