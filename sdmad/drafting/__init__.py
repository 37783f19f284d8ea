"""Sign catalogs drafted by a language model; a reader of the speciality must review them."""
