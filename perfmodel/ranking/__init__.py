"""Ranking: objectives, orders and Pareto fronts."""
