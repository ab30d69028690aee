"""The kernel's own texts and attribute formats, parsed and rendered; one side writes what the other reads."""
