"""Training loop, collectives, checkpoints and launching. Does not know which model it trains."""
