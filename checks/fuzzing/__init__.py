"""Files made by an enemy: what is read (targets), how they are changed (mutations), what must not happen
(watch)."""
