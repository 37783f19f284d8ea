"""Sign catalogs drafted by a language model, for a reader of the speciality to review."""
