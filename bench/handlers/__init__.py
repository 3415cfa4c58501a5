"""The handlers to compare with: the lowest possible cost, what tutorials recommend, and a simple first version."""
