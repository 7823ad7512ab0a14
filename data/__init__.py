"""Tables in, windows out: reading, the synthetic fleet, calendar features, splits and loaders."""
