"""The agents: thin loops around domain functions; `outcome` is how each record of theirs ends."""
