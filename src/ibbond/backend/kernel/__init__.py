"""This host's own bonds, behind the contract: read, planned, written with read-back, watched."""
