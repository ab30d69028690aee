"""The words people type; one file of commands per group."""
