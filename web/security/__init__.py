"""Who may do what, and how much of it: tokens, their keys, origins, shares."""
