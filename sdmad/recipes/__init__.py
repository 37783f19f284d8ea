"""Recipes: convert a public download to an archive of shards and a label table."""
