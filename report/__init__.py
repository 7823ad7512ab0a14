"""Judging forecasts: scores, naive forecasts, evaluation and plots."""
