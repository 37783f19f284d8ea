"""What an archive contains, counted by other code than that of the scorer; for verification.

`listing` lists everything, `shards` counts the files of one object, `tar` parses tars, `parquet`
finds the columns of images and names, `frames` and `volumes` count the images in a file, and
`rules` says what is no image by its name. Only names are written as the scorer writes them
(`sdmad.archive.naming.clean`), and objects are opened by `sdmad.storage`.
"""
