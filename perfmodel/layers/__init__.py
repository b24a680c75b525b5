"""Layers: attention kinds, feed-forward kinds, norms, embeddings -> weights and work per device; no times."""
