"""Requests of the control socket of a running lab, and their answers."""
