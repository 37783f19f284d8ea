"""Archives of images: listing, work units, members, decoding.

An *archive* is a prefix (or one object). Its objects are shards (tar, zip) or loose images; a *work
unit* is what one task reads and one file of scores covers: a shard, or a group of loose objects.
Every image has a name of two parts: `archive`, the shard relative to the prefix (empty for loose
objects), and `member`, its name in the shard (or relative to the prefix).
"""
