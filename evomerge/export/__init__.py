"""A result leaves the database: an ordinary model folder with an honest card.

What a search selected on flatters what it selected, so nothing here reports search
items without saying so: ``report`` compares candidates on held-out items, ``card``
writes what that shows, and ``model`` writes the weights, the recipe and the card as
one.
"""
