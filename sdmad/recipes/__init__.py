"""Recipes: from a public download, in its own layout, to an archive of shards and its labels."""
