"""Work counts: floating-point operations and compulsory bytes of each operator; no hardware."""

from perfmodel.costs.work.attention import attention_bytes, attention_flops, causal_keys
from perfmodel.costs.work.experts import active_experts, experts_bytes, experts_flops
from perfmodel.costs.work.products import gemm_bytes, gemm_flops

__all__ = [
    "active_experts",
    "attention_bytes",
    "attention_flops",
    "causal_keys",
    "experts_bytes",
    "experts_flops",
    "gemm_bytes",
    "gemm_flops",
]
