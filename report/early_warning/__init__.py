"""Early warning: alerts from forecasts, and how good they would have been."""
