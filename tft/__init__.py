"""Temporal Fusion Transformer, its feature schema and the `Forecaster` bundle."""
