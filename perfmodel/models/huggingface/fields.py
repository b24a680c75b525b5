"""Reading one field of a model description at a time; every complaint names file, field and fix."""

import math
from collections.abc import Mapping
from typing import Any

from perfmodel.errors import ModelConfigError

# Fields that change no size: training, sampling, tokens, positions, scores and bookkeeping.
_BOOKKEEPING = """
_attn_implementation _name_or_path _remove_final_layer_norm activation activation_dropout activation_function
add_cross_attention add_full_attention_sink_bias add_swa_attention_sink_bias alibi
apply_residual_connection_post_layernorm architectures attention_chunk_size attention_dropout
attention_multiplier attention_probs_dropout_prob attention_value_scale attn_config attn_dropout_prob
attn_logit_softcapping attn_pdrop attn_temperature_tuning audio_config auto_map aux_loss_alpha bad_words_ids
begin_suppress_tokens bias_dropout_fusion chunk_size chunk_size_feed_forward compress_rope_theta
cross_attention_hidden_size decoder_start_token_id diversity_penalty do_layer_norm_before do_sample dropout
dtype early_stopping emb_pdrop embd_pdrop embedding_dropout encoder_no_repeat_ngram_size ep_size expand
exponential_decay_length_penalty final_logit_softcapping finetuning_task floor_scale forced_bos_token_id
forced_eos_token_id hc_eps hc_sinkhorn_iters hidden_act hidden_activation hidden_dropout hidden_dropout_prob
hidden_size_per_layer_input id2label ignore_index indexer_rope_interleave init_device init_std
initial_context_length initializer_range is_decoder is_encoder_decoder label2id layer_norm_eps
layer_norm_epsilon layerdrop layernorm_epsilon learned_pos_emb length_penalty logit_scale logits_soft_cap loss
mamba_hidden_act mamba_ssm_dtype max_length max_window_layers min_length mlp_hidden_act model_type
moe_router_activation_func moe_router_scaling_factor mrope_section mtp_transformer_layers
mtp_use_dedicated_embeddings name no_repeat_ngram_size no_rope_layer_interval norm_eps norm_topk_prob
norm_type num_beam_groups num_beams num_hash_layers num_logits_to_keep num_return_sequences
original_max_position_embeddings original_rope_theta output_attentions output_hidden_states output_past
output_router_logits output_scores partial_rotary_factor prefix pretraining_tp problem_type pruned_heads
qk_layernorm qk_norm_type query_pre_attn_scalar remove_invalid_values repetition_penalty
rescale_prenorm_residual resid_pdrop residual_in_fp32 return_dict return_dict_in_generate rms_norm_eps
rope_interleave rope_local_base_freq rope_parameters rope_scaling rope_theta rotary_dim routed_scaling_factor
router_aux_loss_coef router_jitter_noise scale_attn_weights scale_embedding scoring_func seq_aux
sliding_window_size summary_activation summary_first_dropout summary_proj_to_labels summary_type
summary_use_proj suppress_tokens swa_rope_theta swiglu_limit task_specific_params temperature tf_legacy_loss
tie_encoder_decoder time_step_floor time_step_limit time_step_max time_step_min time_step_rank tokenizer_class
tokenizer_name top_k top_p topk_method torch_dtype torchscript transformers_version typical_p
use_bfloat16 use_bidirectional_attention use_cache use_mamba_kernels use_mtp use_unified_vision_chunk verbose
video_placeholder vision_config vision_soft_tokens_per_image vocab_size_per_layer_input
"""
_IGNORED = frozenset(_BOOKKEEPING.split())

_REQUIRED: Any = object()
_MOST = 10**12  # beyond any size; keeps products of sizes finite


class Fields:
    """A model description and the place that it came from.

    Parameters
    ----------
    values : mapping
        The fields.
    place : str
        File, or name of the preset.
    """

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self.values = values
        self.place = place
        self._used: set[str] = set()

    def _find(self, names: tuple[str, ...], default: Any) -> tuple[str, Any]:
        self._used.update(names)
        for name in names:
            if self.values.get(name) is not None:
                return name, self.values[name]
        if default is _REQUIRED:
            also = f" (nor {', '.join(names[1:])})" if len(names) > 1 else ""
            raise ModelConfigError(
                f"{self.place}: field {names[0]!r}{also} is missing; add it from the model's own config.json"
            )
        return names[0], default

    def _complain(self, name: str, value: Any, need: str) -> ModelConfigError:
        shown = repr(value)
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        return ModelConfigError(f"{self.place}: field {name!r} is {shown}; it needs {need}")

    def integer(self, *names: str, default: Any = _REQUIRED, minimum: int = 1) -> int:
        """Read a whole number.

        Parameters
        ----------
        *names : str
            The field, and other names that it goes by.
        default : int, optional
            Value where it is absent or null; without one the field is required.
        minimum : int
            Least value that makes sense.

        Returns
        -------
        int
            The number.

        Raises
        ------
        ModelConfigError
            If it is missing, no whole number or too small.
        """
        name, value = self._find(names, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value % 1:
            raise self._complain(name, value, "a whole number")
        if value > _MOST:
            raise self._complain(name, value, f"a whole number of at most {_MOST}")
        if value < minimum and value != default:
            raise self._complain(name, value, f"a whole number of at least {minimum}")
        return int(value)

    def number(self, *names: str, default: Any = _REQUIRED) -> float:
        """Read a positive number.

        Parameters
        ----------
        *names : str
            The field, and other names that it goes by.
        default : float, optional
            Value where it is absent or null.

        Returns
        -------
        float
            The number.

        Raises
        ------
        ModelConfigError
            If it is missing, no number or not positive.
        """
        name, value = self._find(names, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self._complain(name, value, "a positive number")
        return float(value)

    def flag(self, *names: str, default: bool = False) -> bool:
        """Read a truth value.

        Parameters
        ----------
        *names : str
            The field, and other names that it goes by.
        default : bool
            Value where it is absent or null.

        Returns
        -------
        bool
            The value.

        Raises
        ------
        ModelConfigError
            If it is neither true nor false.
        """
        name, value = self._find(names, default)
        if not isinstance(value, bool):
            raise self._complain(name, value, "true or false")
        return value

    def text(self, name: str, default: Any = _REQUIRED) -> str:
        """Read a string.

        Parameters
        ----------
        name : str
            The field.
        default : str, optional
            Value where it is absent or null.

        Returns
        -------
        str
            The string.

        Raises
        ------
        ModelConfigError
            If it is missing or no string.
        """
        _, value = self._find((name,), default)
        if not isinstance(value, str):
            raise self._complain(name, value, "a string")
        return value

    def items(self, name: str, length: int | None = None, kind: type = int) -> list[Any]:
        """Read a list.

        Parameters
        ----------
        name : str
            The field.
        length : int, optional
            How many entries it needs.
        kind : type
            What its entries need to be.

        Returns
        -------
        list
            The entries; empty where the field is absent or null.

        Raises
        ------
        ModelConfigError
            If it is no list of that kind or has another length.
        """
        _, value = self._find((name,), [])
        if not isinstance(value, list):
            raise self._complain(name, value, "a list")
        if not all(isinstance(entry, kind) for entry in value):
            raise self._complain(name, value, "numbers as entries" if kind is int else "names as entries")
        if length is not None and value and len(value) != length:
            raise self._complain(name, value, f"{length} entries, one per layer, but has {len(value)}")
        return value

    def has(self, name: str) -> bool:
        """Tell whether a field is there and not null.

        Parameters
        ----------
        name : str
            The field.

        Returns
        -------
        bool
            Whether it has a value.
        """
        return self.values.get(name) is not None

    def overlaid(self, **values: Any) -> "Fields":
        """Return the description with some fields replaced; what is read from either counts as placed in both.

        Parameters
        ----------
        **values
            Fields and their values.

        Returns
        -------
        Fields
            A second view.
        """
        other = Fields({**self.values, **values}, self.place)
        other._used = self._used
        return other

    def use(self, *names: str) -> None:
        """Mark fields as placed.

        Parameters
        ----------
        *names : str
            Fields that the reader has taken into account.
        """
        self._used.update(names)

    def unplaced(self) -> list[str]:
        """List the fields that nothing has read and that may matter.

        Returns
        -------
        list of str
            Names in alphabetical order.
        """
        return sorted(name for name in self.values if name not in self._used and not ignorable(name))


def ignorable(name: str) -> bool:
    """Tell whether a field changes neither size nor work of a model.

    Parameters
    ----------
    name : str
        Field of a config.json.

    Returns
    -------
    bool
        True for token ids, rates of dropout, rotary parameters and the like.
    """
    return name in _IGNORED or name.endswith(("_token_id", "_token_index", "_token", "_dropout")) or "rope" in name
