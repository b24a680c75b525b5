"""Plans: grids of parallel splits, their groups, placement and rules."""
