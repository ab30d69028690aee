"""IPoIB interfaces against a scripted port and administrator, and against the whole subnet."""
