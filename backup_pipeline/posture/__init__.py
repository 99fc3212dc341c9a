"""How well a plan's datasets are protected, by evidence: the model, what follows, and its page."""
