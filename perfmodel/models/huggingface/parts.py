"""Pieces that the families share: what each does by itself, the ends of a model, blocks (sizes only)."""

from dataclasses import dataclass, field

from perfmodel.errors import ModelConfigError
from perfmodel.layers.base import Layer
from perfmodel.layers.embedding import Embedding, Head
from perfmodel.layers.mlp import Mlp
from perfmodel.layers.norm import Norm
from perfmodel.models.block import Block
from perfmodel.models.huggingface.fields import Fields

MOST_LAYERS = 10_000
"""More layers than this are a slip of the pen; every layer is looked at one by one."""


@dataclass(slots=True)
class Draft:
    """What a family's reader hands over.

    Parameters
    ----------
    layers : list of Block
        One block per layer, from first to last.
    embedding : Embedding
        The token table.
    head : Head
        Final norm and output projection.
    mtp : list of Block
        Blocks that predict further tokens.
    notes : list of str
        What was left out or assumed.
    """

    layers: list[Block]
    embedding: Embedding
    head: Head
    mtp: list[Block] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Style:
    """What a family does that its description does not spell out.

    Parameters
    ----------
    qk_norm : bool
        Norms on queries and keys.
    wide_norm : bool
        Whether these are over all heads together.
    qkv_bias : bool
        Biases on queries, keys and values.
    output_bias : bool
        Bias on the attention output projection, where the description has attention biases.
    norms : int
        Norms per block: 2, or 4 with one after each part too; 1 where attention and MLP run side by side.
    norm_vectors : int
        Weight vectors per norm.
    gated : bool
        A gate beside the up projection.
    biases : bool
        Biases everywhere.
    windows : str
        Where `sliding_window` holds when no list says it: none, all, late (from `max_window_layers`), even.
    tied : bool
        Whether the output projection is the embedding unless the description says otherwise.
    sinks : bool
        A sink logit per head.
    positions : bool
        A learned table of positions.
    shared_gate : bool
        A gate on the shared experts.
    expert_bias, router_bias : bool
        Biases of experts, and one number per expert in the router.
    """

    qk_norm: bool = False
    wide_norm: bool = False
    qkv_bias: bool = False
    output_bias: bool = True
    norms: int = 2
    norm_vectors: int = 1
    gated: bool = True
    biases: bool = False
    windows: str = "none"
    tied: bool = False
    sinks: bool = False
    positions: bool = False
    shared_gate: bool = False
    expert_bias: bool = False
    router_bias: bool = False


def hidden_size(fields: Fields) -> int:
    """Read the width of the model.

    Parameters
    ----------
    fields : Fields
        The description.

    Returns
    -------
    int
        Width.
    """
    return fields.integer("hidden_size", "n_embd", "n_embed", "d_model")


def layer_count(fields: Fields) -> int:
    """Read the number of layers.

    Parameters
    ----------
    fields : Fields
        The description.

    Returns
    -------
    int
        Layers.

    Raises
    ------
    ModelConfigError
        If there are more than any model has.
    """
    layers = fields.integer("num_hidden_layers", "n_layer", "n_layers")
    if layers > MOST_LAYERS:
        raise ModelConfigError(
            f"{fields.place}: field 'num_hidden_layers' is {layers}; it needs a whole number of at most {MOST_LAYERS}"
        )
    return layers


def ends(fields: Fields, style: Style) -> tuple[Embedding, Head]:
    """Read the embedding table and the output head.

    Parameters
    ----------
    fields : Fields
        The description.
    style : Style
        What the family does by itself.

    Returns
    -------
    tuple
        Embedding and head.
    """
    hidden, vocab = hidden_size(fields), fields.integer("vocab_size")
    positions = max_context(fields) if style.positions else 0
    tied = fields.flag("tie_word_embeddings", default=style.tied)
    return Embedding(vocab, hidden, positions), Head(vocab, hidden, tied, style.norm_vectors)


def max_context(fields: Fields) -> int:
    """Read the longest context.

    Parameters
    ----------
    fields : Fields
        The description.

    Returns
    -------
    int
        Tokens; 0 where the description does not say.
    """
    return fields.integer("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", default=0)


def block(name: str, style: Style, mixer: Layer, *feed_forward: Layer) -> Block:
    """Put norms around attention and feed-forward.

    Parameters
    ----------
    name : str
        What distinguishes the block in its model.
    style : Style
        What the family does by itself.
    mixer : Layer
        Attention of any kind.
    *feed_forward : Layer
        Dense layer or experts; more than one run on the same input.

    Returns
    -------
    Block
        The block.
    """
    hidden: int = mixer.hidden  # type: ignore[attr-defined]

    def norm(label: str, residual: bool = True) -> Norm:
        return Norm(label, hidden, style.norm_vectors, residual)

    parts: list[Layer] = [norm("attention norm"), mixer]
    if style.norms == 4:
        parts.append(norm("after-attention norm", False))
    if style.norms >= 2:
        parts.append(norm("mlp norm"))
    parts += feed_forward
    if style.norms == 4:
        parts.append(norm("after-mlp norm", False))
    return Block(name, tuple(parts))


def prediction_block(hidden: int, inner: Block) -> Block:
    """Wrap a block that predicts a further token: it joins the hidden state with the last token's embedding.

    Embedding and head are those of the model.

    Parameters
    ----------
    hidden : int
        Width of the model.
    inner : Block
        The decoder block inside.

    Returns
    -------
    Block
        Joining projection, norms and the block.
    """
    # The projection of two concatenated vectors has as many elements as two square matrices.
    join = Mlp(hidden, hidden, gated=False, name="mtp joining")
    return Block(f"mtp, {inner.name}", (Norm("mtp norms", hidden, 3), join, *inner.parts))
