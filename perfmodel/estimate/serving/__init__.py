"""Serving: latency, throughput and memory of deployments under a load, from steps to whole plans."""
