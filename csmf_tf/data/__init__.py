"""Event logs: reading, splitting, simulating, and turning into the batches of a stage."""
