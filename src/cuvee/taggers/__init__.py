"""What an example is about, as tags: the file name is the name in a recipe. `data.tags` keeps and counts them.

A tagger either says the tags itself (`tags`) or asks a model (`request`, `parse`, `generation`, `identity`).
"""
