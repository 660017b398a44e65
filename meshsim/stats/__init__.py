"""Compiled accumulators and the statistics of simulation output."""
