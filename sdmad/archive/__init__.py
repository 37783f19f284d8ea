"""Archives of images: listing, work units, members, decoding.

An *archive* is a prefix, a single object or a manifest. Its objects are shards (tar, zip, Parquet)
or loose images. A *work unit* is what one task reads and one file of scores covers: a shard, a part
of one, or a group of loose objects. The name of an image has two parts: `archive` is the path of
its shard below the prefix (empty for loose objects), `member` is its name in the shard (for loose
objects, its path below the prefix).
"""
