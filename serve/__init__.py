"""The forecast service: rolling state, forecasts once a tick, alerts, an HTTP API, a dashboard.

Optional: `pip install 'fleet-tft[serve]'`. Stands on `report`, `data` and `tft`, never on `train`.
"""
