"""`herd simulate`: the product's own routing core against simulated machines."""
