"""Nothing lost, nothing wrong: every way to hurt a store, each with a quick form in the suite and a full campaign."""
