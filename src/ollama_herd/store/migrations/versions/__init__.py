"""One module a version; `revision` is its number with four digits."""
