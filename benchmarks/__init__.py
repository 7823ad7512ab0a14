"""Measurements, and the records of what they found."""
