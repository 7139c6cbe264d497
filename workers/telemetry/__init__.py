"""How a worker is seen from outside: its figures, and whether it can still claim and finish."""
